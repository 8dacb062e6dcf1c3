//! The sans-IO core of Dispatch: it decides everything and does nothing.
//!
//! A [`Dispatcher`] is one replica's state machine. Its driver hands it
//! [`Input`](io::Input)s with the time, carries out the
//! [`Effect`](io::Effect)s that come of them, and comes back when
//! [`Dispatcher::poll_timeout`] says so. The loop is the same in production,
//! in the simulator and under a fuzzer:
//!
//! ```
//! use dispatch_core::config::{Config, Provider};
//! use dispatch_core::ids::{CommandId, Owner};
//! use dispatch_core::io::{Command, Effect, Input, Submit};
//! use dispatch_core::store::{Model, ProviderSettings};
//! use dispatch_core::time::{Instant, Now, Timestamp};
//! use dispatch_core::Dispatcher;
//!
//! let settings = ProviderSettings { id: "mock".try_into()?, limit: 4, cooldown_ms: 200 };
//! let owner = Owner { node: "here".into(), boot: 1, incarnation: 0 };
//! let config = Config::new(owner, vec![Provider { settings, models: vec!["m".into()] }]);
//! let now = Now { mono: Instant(0), wall: Timestamp(0) };
//! let mut core = Dispatcher::new(config, [0; 32], now);
//! let mut store = Model::default();
//!
//! let message = Submit {
//!     conversation: None, workspace: None, model: None, cwd: None, computer: None,
//!     idempotency: None, message: "hello".into(),
//! };
//! core.handle(now, Input::Command { id: CommandId(1), command: Command::Submit(Box::new(message)) });
//! let request = loop {
//!     match core.poll_effect() {
//!         Some(Effect::Store { id, verb }) => {
//!             let outcome = Ok(store.apply(&verb));
//!             core.handle(now, Input::Stored { id, outcome });
//!         }
//!         Some(Effect::OpenProvider { body, .. }) => break body, // post it, feed back what comes
//!         Some(_) => {}
//!         None => core.handle(Now { mono: core.poll_timeout().unwrap().0, ..now }, Input::Tick),
//!     }
//! };
//! assert!(String::from_utf8(request)?.contains("hello"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Rules that hold everywhere in here: no clock, no thread, no socket, no file,
//! no floating point in a decision, no hash map, and randomness only from the
//! seed that the constructor was given. Everything in flight has a deadline.
//! What has a sequence number is durable before it is an effect to show.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod admission;
pub mod computer;
pub mod config;
mod dispatcher;
pub mod event;
pub mod http_date;
pub mod ids;
pub mod io;
pub mod journal;
mod kit;
pub mod liveness;
pub mod output;
pub mod planted;
pub mod reconcile;
pub mod retry;
mod ssh;
pub mod store;
pub mod time;
pub mod tools;
pub mod transcript;
mod turn;
pub mod webhook;
pub mod wire;

pub use dispatcher::{Broken, Dispatcher};
pub use kit::Wake;
