//! What is left of revoked keys goes once no copy of the store can bring them back: the key was revoked, and would have expired by
//! itself, longer ago than any copy is kept. Never removes a key that does not expire, or one whose plane says of it that it was
//! revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_guard::slots::Slots;
use tollgate_guard::time::Timestamp;

use super::actor::Actor;
use super::audit::Attempt;
use super::{PAUSE, Registry, RegistryError, Result};
use crate::domain::change::Event;
use crate::domain::record::{ApiKey, AuditEntry, Outcome};
use crate::store::{KeyQuery, OnceRecord, StoreError, Write};

/// How much is read, and at most removed, at once.
const PAGE: usize = 256;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which keys leave nothing behind, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstones {
    /// No copy of the store that is older than this is ever put back.
    pub backups_kept: Duration,
    /// The planes whose revoked keys are answered as if they were unknown.
    pub planes: BTreeSet<String>,
}

impl Registry {
    /// Removes what is left of keys that are over for long enough. Of all who share the store, one does it once a day.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; what was removed is gone all the same.
    pub async fn purge_tombstones(&self) -> Result<()> {
        let Some(rule) = self.limits.load().tombstones.clone() else { return Ok(()) };
        if !self.store.format().await?.has_three() || !self.is_todays_purger().await? {
            return Ok(());
        }
        let Some(now) = self.time_to_remove().await? else { return Ok(()) };
        let before = now.minus(rule.backups_kept);
        let mut query = KeyQuery { limit: PAGE, ..KeyQuery::default() };
        loop {
            let page = self.store.keys(query.clone()).await?;
            let over: Vec<&ApiKey> =
                page.iter().filter(|key| key.is_over_before(before) && rule.planes.contains(&key.plane)).collect();
            if !over.is_empty() && !self.purge(&over, now, before).await? {
                for one in &over {
                    self.purge(&[one], now, before).await?;
                }
            }
            match page.last().filter(|_| page.len() == PAGE) {
                Some(last) => query.after = Some(last.id),
                None => return Ok(()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whoever notes first that it does today's round. A store without room has to be purged all the more. Each day has a name of its
    /// own, so that a round that a wrong clock has dated ahead holds up no other.
    async fn is_todays_purger(&self) -> Result<bool> {
        let at = self.clock.now();
        let name = self.digester.of_name("round", &format!("key.purge {}", at.as_secs() / DAY.as_secs())).0;
        let once = OnceRecord { digest: name, fingerprint: name, target: "key.purge".to_owned(), at };
        match self.store.commit(vec![Write::Once(once)], Event::touching(&[])).await {
            Ok(_) | Err(StoreError::Full(_)) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all of them or none. Whether it did: one may have been changed or removed meanwhile.
    async fn purge(&self, over: &[&ApiKey], now: Timestamp, before: Timestamp) -> Result<bool> {
        let actor = Actor::tollgate();
        let mut projects: BTreeMap<&str, usize> = BTreeMap::new();
        for key in over {
            *projects.entry(&key.project).or_default() += 1;
        }
        let purges = over.iter().map(|key| Write::PurgeKey { id: key.id, version: key.version, before });
        let rows = projects.into_iter().map(|(project, count)| {
            let attempt = Attempt::on_project(&actor, "key.purge", project);
            let reason =
                format!("{count} revoked keys had expired for so long that no copy of the store has them valid");
            // By the time that the log knows, or the next round would go by a clock that was set forward.
            Write::Audit(AuditEntry { at: now, ..self.row(&attempt, Some(project), Outcome::Done, Some(&reason)) })
        });
        let slots: Vec<Slots> = over.iter().map(|key| Slots::of_digests(&[key.digest])).collect();
        match self.apply(purges.chain(rows).collect(), Event::touching(&slots)).await {
            Ok(_) => {
                self.store.forget_use(over.iter().map(|key| key.id).collect()).await?;
                Ok(true)
            }
            Err(RegistryError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
