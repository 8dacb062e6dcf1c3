//! Who this process is: the node that its data directory names, and the number
//! of its life.

use dispatch_core::ids::Owner;

use super::ServeError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::data_dir;
use crate::store::{ReadError, ReplicaView, Store};

/// A process's life as the store knows it.
pub(super) struct Life {
    pub(super) owner: Owner,
    pub(super) number: u64,
}

/// This process's: later than every life that the store has seen of the node, and
/// than one that has died before the store did.
pub(super) async fn life(
    settings: &Settings,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<Life, ServeError> {
    let node = data_dir::node(&settings.places.data_dir)?.name;
    let last = seen(store, &node).await?;
    let next = last.map_or(0, |last| last.row.life.saturating_add(1));
    Ok(Life {
        number: next.max(clock.now().wall.0),
        owner: Owner {
            node: node.into(),
            boot: data_dir::eight_random_bytes(),
            incarnation: 0,
        },
    })
}

/// What the store knows of a node.
async fn seen(store: &dyn Store, node: &str) -> Result<Option<ReplicaView>, ReadError> {
    let mut replicas = store.replicas().await?.into_iter();
    Ok(replicas.find(|seen| *seen.row.owner.node == *node))
}

/// A copied data directory becomes one in its own right, unless the original
/// is being served: what it names as its own belongs to that one.
pub(super) async fn own_data_dir(settings: &Settings, store: &dyn Store) -> Result<(), ServeError> {
    let dir = &settings.places.data_dir;
    let node = data_dir::node(dir)?;
    if !node.is_copy {
        return Ok(());
    }
    if store.is_shared() {
        let lease_s = settings.liveness.lease_s;
        let original = seen(store, &node.name).await?;
        let silent_s = original.map(|seen| seen.now.since_ms(seen.row.seen_at) / 1_000);
        if let Some(silent_s) = silent_s.filter(|silent_s| *silent_s < lease_s) {
            return Err(ServeError::Copied {
                dir: dir.clone(),
                node: node.name,
                silent_s,
                lease_s,
            });
        }
    }
    let aside = data_dir::set_runs_aside(dir)?;
    tracing::warn!(
        dir = %dir.display(),
        runs = aside.map(|aside| aside.display().to_string()),
        "this data directory is a copy of another: its turns go on here, its commands are left to the original; stop that one, or both do the same work"
    );
    Ok(data_dir::own(dir, &node.name)?)
}
