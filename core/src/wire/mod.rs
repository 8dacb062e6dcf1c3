//! Everything that crosses a wire: framing, dialects, step assembly, events.
