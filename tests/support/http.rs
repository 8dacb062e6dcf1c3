//! A blocking HTTP/1.1 client of its own, one connection a request: what the
//! tests send is exactly what they say, however wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The body, when the status is the wanted one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() {
            return Value::Null;
        }
        self.json()
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let known = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    known.map(|(_, value)| value.as_str())
}

/// An answer whose body is still coming.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub(crate) fn read(mut self) -> io::Result<Reply> {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body)?;
        Ok(Reply {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}

/// One request with the headers that every request needs.
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    request_within(PATIENCE, addr, method, path, headers, body)
}

/// [`request`] by a client that takes silence of such length for a dead server.
pub(crate) fn request_within(
    patience: Duration,
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
    let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has("host") {
        add("host", &addr.to_string());
    }
    if !has("connection") {
        add("connection", "close");
    }
    if !has("content-length") && (!body.is_empty() || method == "POST" || method == "PUT") {
        add("content-length", &body.len().to_string());
    }
    for (name, value) in headers {
        add(name, value);
    }
    head.push_str("\r\n");
    raw_within(patience, addr, head.as_bytes(), body)
}

/// One request in the caller's own bytes.
pub(crate) fn raw(addr: SocketAddr, head: &[u8], body: &[u8]) -> io::Result<Answer> {
    raw_within(PATIENCE, addr, head, body)
}

fn raw_within(
    patience: Duration,
    addr: SocketAddr,
    head: &[u8],
    body: &[u8],
) -> io::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&addr, patience)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    let written = socket.write_all(head).and_then(|()| socket.write_all(body));
    // A server may answer and close before it has read all: the answer counts.
    match (answer(socket), written) {
        (Ok(answer), _) => Ok(answer),
        (Err(error), Ok(())) | (Err(_), Err(error)) => Err(error),
    }
}

fn answer(socket: TcpStream) -> io::Result<Answer> {
    let mut from = BufReader::new(socket);
    let status_line = line(&mut from)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| broken(&format!("no status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(&mut from)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = find(&headers, "content-length").and_then(|value| value.parse().ok());
    let is_chunked = find(&headers, "transfer-encoding").is_some_and(|v| v.contains("chunked"));
    let framing = match (status, is_chunked, length) {
        (204 | 304, _, _) => Framing::Left(0),
        (_, true, _) => Framing::Chunk(0),
        (_, false, Some(length)) => Framing::Left(length),
        (_, false, None) => Framing::ToEnd,
    };
    Ok(Answer {
        status,
        headers,
        body: Body { from, framing },
    })
}

/// A body as it comes, without its framing. A connection that breaks off
/// before the body's end is an error, not an end.
pub(crate) struct Body {
    from: BufReader<TcpStream>,
    framing: Framing,
}

enum Framing {
    Left(u64),
    /// Bytes left of this chunk.
    Chunk(u64),
    ToEnd,
}

impl Body {
    /// A handle by which another thread can end the connection.
    pub(crate) fn hangup(&self) -> io::Result<Hangup> {
        Ok(Hangup(self.from.get_ref().try_clone()?))
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunk(left @ 0) = &mut self.framing {
            let size = line(&mut self.from)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            *left = u64::from_str_radix(size, 16).map_err(|_| broken("no chunk size"))?;
            if *left == 0 {
                line(&mut self.from)?;
                self.framing = Framing::Left(0);
            }
        }
        let left = match &mut self.framing {
            Framing::ToEnd => return self.from.read(into),
            Framing::Left(left) | Framing::Chunk(left) => left,
        };
        if *left == 0 || into.is_empty() {
            return Ok(0);
        }
        let most = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut into[..most])?;
        if read == 0 {
            return Err(broken("the connection was cut"));
        }
        *left -= read as u64;
        if let Framing::Chunk(0) = self.framing {
            line(&mut self.from)?;
        }
        Ok(read)
    }
}

/// Ends a connection whoever reads from it.
pub(crate) struct Hangup(TcpStream);

impl Hangup {
    pub(crate) fn now(&self) {
        self.0.shutdown(Shutdown::Both).ok();
    }
}

fn line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(broken("the connection was cut"));
    }
    Ok(line.trim_end().to_owned())
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}
