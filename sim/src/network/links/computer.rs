//! An SSH server on the simulated network, and its ways to go wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use turmoil::net::TcpListener;

use super::wire::{Snag, Snagged};
use super::{Plan, Trouble};

pub(super) const PORT: u16 = 22;

/// The keys of a run.
pub(super) struct Keys {
    pub(super) host: PrivateKey,
    pub(super) user: PrivateKey,
}

impl Keys {
    pub(super) fn of(seed: u64) -> Keys {
        let key = |which: u8| {
            let mut bytes = [which; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&bytes));
            PrivateKey::new(pair, "").expect("an Ed25519 key is a key")
        };
        Keys {
            host: key(1),
            user: key(2),
        }
    }
}

/// How it behaves towards whom.
#[derive(Clone)]
pub(super) struct Behaviour {
    keys: Arc<Keys>,
    rejects: bool,
    /// Of the first connection.
    snag: Option<Snag>,
    /// Over all its lives.
    accepted: Arc<AtomicU64>,
}

impl Behaviour {
    pub(super) fn of(plan: &Plan, keys: Arc<Keys>) -> Behaviour {
        Behaviour {
            keys,
            rejects: plan.trouble == Trouble::Rejects,
            snag: match plan.trouble {
                Trouble::Wire(snag) => Some(snag),
                _ => None,
            },
            accepted: Arc::default(),
        }
    }
}

pub(super) async fn live(behaviour: Behaviour) -> turmoil::Result {
    let config = Arc::new(Config {
        keys: vec![behaviour.keys.host.clone()],
        ..Config::default()
    });
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let is_first = behaviour.accepted.fetch_add(1, Ordering::Relaxed) == 0;
        let stream = Snagged::new(stream, behaviour.snag.filter(|_| is_first));
        let guest = Guest {
            known: behaviour.keys.user.public_key().clone(),
            rejects: behaviour.rejects && is_first,
        };
        let config = config.clone();
        tokio::spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, stream, guest).await {
                // Its end is the other side's to tell of.
                let _ = session.await;
            }
        });
    }
}

/// One connection.
struct Guest {
    known: PublicKey,
    rejects: bool,
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let is_known = key.public_key.key_data() == self.known.key_data();
        Ok(match is_known && !self.rejects {
            true => Auth::Accept,
            false => Auth::reject(),
        })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    /// A command's output is itself, and its exit code its length.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        session.data(channel, command.to_vec())?;
        let code = u32::try_from(command.len()).unwrap_or(u32::MAX);
        session.exit_status_request(channel, code)?;
        session.eof(channel)?;
        session.close(channel)
    }
}
