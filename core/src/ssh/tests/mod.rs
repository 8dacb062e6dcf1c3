//! The pool alone, in a small world that does what it is told, or does not.

mod rules;
mod storms;
mod words;
mod world;
