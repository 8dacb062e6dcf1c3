#![no_main]

dispatch_fuzz::fuzz!(dispatch_sim::fuzz::sse::target);
