//! What travels: verbs and reads of the log as datagrams, which may be lost or
//! overtake each other; requests, commands and followed logs as frames over
//! connections, which stall where a link is clogged and end with either node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EffectId, ProviderId, Seq, TurnId};
use dispatch_core::io::{Answer, Command, FailKind};
use dispatch_core::store::Verb;
use madsim::net::{Endpoint, TcpStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::plan::Who;

/// Datagrams with these tags go to the store. Answers have the tag that was
/// asked for: one of the asker's life, because what was meant for an earlier
/// process at the same address must not be taken for an answer.
pub(super) const VERB: u64 = 1;
pub(super) const LOG_READ: u64 = 2;

/// Room for any datagram: a turn's whole transcript is the longest.
pub(super) const LONGEST: usize = 1 << 20;

/// Where a node listens.
pub(super) fn address(who: Who) -> SocketAddr {
    let (host, port) = match who {
        Who::Replica(index) => (10 + u8::try_from(index).unwrap_or(u8::MAX), 4747),
        Who::Store => (1, 5432),
        Who::Provider => (2, 443),
        Who::Client => (3, 1024),
    };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), port)
}

/// The tag of outcomes for a replica's process; those above it are for its
/// reads of logs.
pub(super) fn outcome_tag(life: u32) -> u64 {
    (1 << 63) | (u64::from(life) << 32)
}

/// A verb; answered by an `(EffectId, Outcome)`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AskedVerb {
    pub(super) tag: u64,
    pub(super) id: EffectId,
    pub(super) verb: Verb,
}

/// A read of a conversation's log; answered by a `Vec<AgentEvent>`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LogRead {
    pub(super) tag: u64,
    pub(super) conversation: ConversationId,
    pub(super) after: Seq,
}

/// What a client says first on a connection to a replica.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Hello {
    /// Answered by one [`Answer`].
    Command(Command),
    /// Answered by one [`AgentEvent`] after the other.
    Follow {
        conversation: ConversationId,
        after: Seq,
    },
}

/// A request to a provider. What is not the body is for the simulation's own
/// bookkeeping.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) stream: u32,
    pub(super) replica: usize,
    pub(super) life: u32,
    pub(super) provider: ProviderId,
    pub(super) turn: TurnId,
    pub(super) body: Vec<u8>,
}

/// A piece of a provider's answer. A connection that ends without `End` is cut.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Piece {
    /// What comes next is a fault: the number of its cause.
    Note(usize),
    Head(u16, Vec<(String, String)>),
    Bytes(Vec<u8>),
    End,
    /// There never was a connection.
    NoConnection(FailKind),
}

pub(super) fn packed(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("everything that travels has a binary form")
}

pub(super) fn unpacked<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("what was packed can be unpacked")
}

/// Waits for a datagram; `buffer` has [`LONGEST`] bytes.
pub(super) async fn datagram<T: DeserializeOwned>(
    endpoint: &Endpoint,
    tag: u64,
    buffer: &mut [u8],
) -> io::Result<(T, SocketAddr)> {
    let (len, from) = endpoint.recv_from(tag, buffer).await?;
    assert!(len < buffer.len(), "a datagram of {len} bytes was cut off");
    Ok((unpacked(&buffer[..len]), from))
}

pub(super) async fn send(stream: &mut TcpStream, value: &impl Serialize) -> io::Result<()> {
    let bytes = packed(value);
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// The next frame; an error where the connection has ended. Must not be dropped
/// half-way unless the connection is, too.
pub(super) async fn receive<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let len = stream.read_u32_le().await?;
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    stream.read_exact(&mut bytes).await?;
    Ok(unpacked(&bytes))
}

/// Waits for the end of a connection on which nothing more is said.
pub(super) async fn closed(stream: &mut TcpStream) {
    let mut nothing = [0; 1];
    let read = stream.read(&mut nothing).await;
    debug_assert!(!matches!(read, Ok(1..)), "somebody spoke out of turn");
}

/// Sends a command to a replica and waits for its answer. `Err(false)`: it was
/// not sent; `Err(true)`: nobody knows.
pub(super) async fn command(replica: usize, command: Command) -> Result<Answer, bool> {
    let to = address(Who::Replica(replica));
    let mut stream = TcpStream::connect(to).await.map_err(|_| false)?;
    let hello = Hello::Command(command);
    send(&mut stream, &hello).await.map_err(|_| true)?;
    receive(&mut stream).await.map_err(|_| true)
}

/// Marks [`AgentEvent`] as what follows a [`Hello::Follow`].
pub(super) async fn followed(stream: &mut TcpStream) -> io::Result<AgentEvent> {
    receive(stream).await
}
