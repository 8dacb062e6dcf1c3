//! Model providers as the host calls them: a request body goes out, the bytes
//! of the answer come in. What they mean is decided in the core.

mod config;
mod http_provider;
mod secret;

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::net::Net;
use crate::scripted::ScriptedProvider;

pub use config::{BaseUrl, ProviderConfig, ProviderConfigError};
pub use http_provider::HttpProvider;
pub(crate) use http_provider::chain;
pub use secret::{Secret, Secrets};

/// One provider, however it is reached.
#[derive(Clone, Debug)]
pub enum Provider<N: Net> {
    /// An OpenAI-compatible server.
    Http(HttpProvider<N>),
    /// The scripted provider in this process, without a socket (P3).
    Scripted(ScriptedProvider),
}

impl<N: Net> Provider<N> {
    /// Sends one step's request; see [`HttpProvider::open`].
    pub fn open(
        &self,
        body: Bytes,
        connect_ms: u64,
        sink: mpsc::Sender<ProviderInput>,
    ) -> StreamHandle {
        match self {
            Provider::Http(provider) => provider.open(body, connect_ms, sink),
            Provider::Scripted(provider) => provider.open(body, sink),
        }
    }

    /// `text` with this provider's secrets masked.
    pub fn mask(&self, text: &str) -> String {
        match self {
            Provider::Http(provider) => provider.mask(text),
            Provider::Scripted(_) => text.to_owned(),
        }
    }
}

/// What a provider's stream tells, in order. [`End`](ProviderInput::End) or
/// [`Failed`](ProviderInput::Failed) comes once and last, unless the stream is
/// cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderInput {
    /// The response's head. A redirect is not followed: it is a status.
    Head {
        /// The HTTP status.
        status: u16,
        /// Lower-case names; only `content-type`, `retry-after`,
        /// `retry-after-ms`, `x-should-retry` and `x-request-id`, each at most
        /// once, values cut at 1 KB.
        headers: Vec<(String, String)>,
    },
    /// A piece of the response's body, never empty.
    Bytes(Bytes),
    /// The body ended as HTTP says that a body ends.
    End,
    /// The exchange broke.
    Failed {
        /// How it broke.
        kind: FailKind,
        /// For people; secrets are masked, at most 1 KB.
        message: String,
    },
}

/// How an exchange with a provider broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailKind {
    /// No connection within the connect deadline (T10).
    ConnectTimeout,
    /// Nobody listens at the address.
    Refused,
    /// The host name did not resolve.
    Dns,
    /// TCP stood, TLS did not.
    Tls,
    /// No connection for another reason.
    Connect,
    /// The connection was closed or reset before the response's head.
    Reset,
    /// Another failure before the response's head, such as an answer that is
    /// no HTTP.
    Transport,
    /// The body was cut before its end.
    Body,
}

/// Owns one exchange. Dropping it cancels.
#[derive(Debug)]
#[must_use = "dropping the handle cancels the stream"]
pub struct StreamHandle(JoinHandle<()>);

impl StreamHandle {
    /// Runs `exchange`, then reports its end. A panic in it is a failure like
    /// any other, so that its turn hears of it.
    pub(crate) fn spawn<F>(sink: mpsc::Sender<ProviderInput>, exchange: F) -> StreamHandle
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        StreamHandle(tokio::spawn(async move {
            let ended = AssertUnwindSafe(exchange).catch_unwind().await;
            let last = match ended {
                Ok(Ended::Clean) => ProviderInput::End,
                Ok(Ended::Failed { kind, message }) => ProviderInput::Failed { kind, message },
                Ok(Ended::Unwatched) => return,
                Err(_) => ProviderInput::Failed {
                    kind: FailKind::Transport,
                    message: "the exchange with the provider panicked; see the log".to_owned(),
                },
            };
            // Nobody is left to tell when the receiver is gone.
            let _ = sink.send(last).await;
        }))
    }

    /// Drops the connection at once; nothing more is reported. Idempotent.
    pub fn cancel(&self) {
        self.0.abort();
    }

    /// The exchange is over and reported, or cancelled.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How an exchange ended, for [`StreamHandle::spawn`] to report.
pub(crate) enum Ended {
    /// The body ended as it should.
    Clean,
    /// It broke.
    Failed { kind: FailKind, message: String },
    /// The receiver is gone.
    Unwatched,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_an_exchange_is_reported_as_its_one_end() {
        let (sink, mut inputs) = mpsc::channel(4);
        let _stream = StreamHandle::spawn(sink, async {
            assert_eq!(std::hint::black_box(1), 2, "on purpose");
            Ended::Clean
        });
        let last = inputs.recv().await;
        assert!(
            matches!(&last, Some(ProviderInput::Failed { kind: FailKind::Transport, message }) if message.contains("panicked")),
            "{last:?}"
        );
        assert_eq!(inputs.recv().await, None);
    }

    #[tokio::test]
    async fn the_scripted_provider_is_a_provider_like_any_other() {
        let provider: Provider<crate::net::TokioNet> =
            Provider::Scripted(ScriptedProvider::new(None));
        let (sink, mut inputs) = mpsc::channel(4);
        let _stream = provider.open("no json".into(), 1, sink);
        assert!(matches!(
            inputs.recv().await,
            Some(ProviderInput::Head { status: 400, .. })
        ));
        assert!(matches!(inputs.recv().await, Some(ProviderInput::Bytes(_))));
        assert_eq!(inputs.recv().await, Some(ProviderInput::End));
    }
}
