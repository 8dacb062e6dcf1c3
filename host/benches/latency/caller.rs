//! Asks for one answer at a time over a connection that is kept, as a pooling
//! client would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::PIECES;
use crate::tee::{Sightings, Tee};

/// One measured answer.
pub(crate) struct Measured {
    /// From the request to the first piece.
    pub(crate) first: Duration,
    /// Of each further piece: from the tee to the caller.
    pub(crate) further: Vec<Duration>,
}

pub(crate) struct Caller {
    stream: TcpStream,
    address: SocketAddr,
    path: &'static str,
    key: &'static str,
    body: fn(&str) -> String,
}

impl Caller {
    /// Calls the provider.
    pub(crate) fn direct(address: SocketAddr) -> Caller {
        Caller::new(address, "/v1/chat/completions", "content", |message| {
            json!({
                "model": "scripted",
                "stream": true,
                "messages": [{"role": "user", "content": message}],
            })
            .to_string()
        })
    }

    /// Calls the server, a new conversation each time.
    pub(crate) fn through(address: SocketAddr) -> Caller {
        Caller::new(address, "/chat", "text", |message| {
            json!({ "message": message }).to_string()
        })
    }

    fn new(
        address: SocketAddr,
        path: &'static str,
        key: &'static str,
        body: fn(&str) -> String,
    ) -> Caller {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Caller {
            stream,
            address,
            path,
            key,
            body,
        }
    }

    pub(crate) fn call(&mut self, message: &str, tee: &Tee) -> Measured {
        let body = (self.body)(message);
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            self.address,
            body.len()
        );
        drop(tee.take());
        let began = Instant::now();
        self.stream.write_all(request.as_bytes()).unwrap();
        let seen = self.read_answer();
        let passed = tee.take();
        assert_eq!(
            (seen.at.len(), passed.at.len()),
            (PIECES, PIECES),
            "pieces were lost or put together; the answer ends with {}",
            seen.rest()
        );
        let further = passed.at.iter().zip(&seen.at).skip(1);
        Measured {
            first: seen.at[0] - began,
            further: further
                .map(|(passed, seen)| seen.saturating_duration_since(*passed))
                .collect(),
        }
    }

    /// Up to the end of its chunked body.
    fn read_answer(&mut self) -> Sightings {
        let mut seen = Sightings::default();
        let mut buffer = [0u8; 16 * 1024];
        loop {
            let n = self.stream.read(&mut buffer).unwrap();
            let now = Instant::now();
            assert!(n > 0, "the answer was cut: {}", seen.rest());
            seen.take(&buffer[..n], self.key, now);
            if seen.rest_contains(b"\r\n0\r\n\r\n") {
                return seen;
            }
        }
    }
}
