//! The one who revokes, and waits until it counts everywhere. Steps on only when the scheduler says so.

use std::time::Duration;

use tollgate_guard::protocol::{Member, MemberState, Position, Unlisted};
use tollgate_guard::slots::Touched;
use tollgate_guard::time::{Moment, Timestamp};
use tollgate_guard::wait::{Observation, Verdict, Wait};

use crate::redis::{Change, Listed, Mark};
use crate::replica::{KEYS, REPLICAS, slots};
use crate::rules::Broken;
use crate::world::World;

#[derive(Debug)]
pub struct Revocation {
    pub key: usize,
    pub by: usize,
    pub waits: bool,
    /// The count of histories before it was made.
    pub lineages: u64,
    pub stage: RevokerStage,
}

/// The members, those that are missing, when they were listed, and the beat of the one who waits.
type List = (Vec<Member>, Option<Unlisted>, Moment, u64);

#[derive(Debug)]
pub enum RevokerStage {
    Asked,
    /// Only where record and log are two commands.
    Half {
        server: usize,
    },
    Recorded {
        mark: Mark,
        sequence: u64,
    },
    Acknowledged {
        sequence: u64,
    },
    Waiting {
        wait: Wait,
        list: Option<List>,
    },
}

impl World {
    pub fn revoke(&mut self) {
        loop {
            self.revoke_once();
            if self.below(3) == 0 {
                return;
            }
            if self.below(4) == 0 {
                self.redis.replicate();
            }
        }
    }

    /// Moves the one who revokes a step on.
    fn revoke_once(&mut self) {
        let Some(mut revocation) = self.revocation.take() else {
            let (key, by, waits) = (self.pick(KEYS), self.pick(REPLICAS), self.below(3) > 0);
            let lineages = self.replicas[by].channel.standing().lineages;
            self.revocation = Some(Revocation { key, by, waits, lineages, stage: RevokerStage::Asked });
            return;
        };
        let stage = match revocation.stage {
            RevokerStage::Asked => self.record(revocation.key),
            RevokerStage::Half { server } => self.record_late(revocation.key, server),
            RevokerStage::Recorded { mark, sequence } => self.acknowledge(&revocation, mark, sequence),
            RevokerStage::Acknowledged { .. } if !revocation.waits => None,
            RevokerStage::Acknowledged { sequence } => {
                let wait = Wait::new(sequence, revocation.lineages, self.now());
                Some(RevokerStage::Waiting { wait, list: None })
            }
            RevokerStage::Waiting { wait, list } => {
                self.attend(revocation.by);
                let lineages = self.replicas[revocation.by].channel.standing().lineages;
                let next = self.observe((revocation.key, revocation.by, revocation.lineages), wait, list);
                if matches!(next, Some(RevokerStage::Asked)) {
                    revocation.lineages = lineages;
                }
                next
            }
        };
        self.revocation = stage.map(|stage| Revocation { stage, ..revocation });
    }

    /// Rule 6.
    fn record(&mut self, key: usize) -> Option<RevokerStage> {
        let random = self.below(1 << 20);
        let server = self.redis.find(random);
        if !self.redis.writes(server, self.now()) || !self.redis.servers[server].data.is_open() {
            return None;
        }
        let data = &mut self.redis.servers[server].data;
        let repeated = data.revoked[key];
        match self.broken {
            Broken::RetryAppendsNothing if repeated => {
                let sequence = data.sequence();
                return Some(RevokerStage::Recorded { mark: self.redis.mark(server), sequence });
            }
            Broken::RetryAppendsNothing => {
                data.revoked[key] = true;
                return Some(RevokerStage::Half { server });
            }
            Broken::LogBeforeRecord => {
                data.append(Change::Ends(key));
                return Some(RevokerStage::Half { server });
            }
            _ => data.revoked[key] = true,
        }
        let sequence = data.append(Change::Ends(key));
        Some(RevokerStage::Recorded { mark: self.redis.mark(server), sequence })
    }

    fn record_late(&mut self, key: usize, server: usize) -> Option<RevokerStage> {
        if !self.redis.writes(server, self.now()) || self.redis.servers[server].data.is_lost() {
            return None;
        }
        let stopped = self.broken == Broken::RetryAppendsNothing && self.below(2) == 0;
        let data = &mut self.redis.servers[server].data;
        if self.broken == Broken::LogBeforeRecord {
            data.revoked[key] = true;
        } else if stopped {
            // The administrator was stopped in between, and tries again later.
            return Some(RevokerStage::Asked);
        } else {
            data.append(Change::Ends(key));
        }
        let sequence = data.sequence();
        Some(RevokerStage::Recorded { mark: self.redis.mark(server), sequence })
    }

    /// Rule 7.
    fn acknowledge(&mut self, revocation: &Revocation, mark: Mark, sequence: u64) -> Option<RevokerStage> {
        let Revocation { key, by, .. } = *revocation;
        if self.broken != Broken::AcknowledgedUnreplicated {
            if self.redis.is_broken(mark) {
                return None;
            }
            if !self.redis.is_replicated(mark) {
                return Some(RevokerStage::Recorded { mark, sequence });
            }
        }
        let replica = &mut self.replicas[by];
        let lineage = &self.redis.servers[mark.server].data.lineage;
        if replica.channel.standing().lineages == revocation.lineages
            && replica.channel.lineage() == Some(&*lineage.to_string())
        {
            let made = self.redis.servers[mark.server].data.position(sequence);
            if made.sequence > replica.newest_acknowledged().sequence {
                replica.acknowledged = (lineage.to_string(), made);
            }
        }
        if self.broken != Broken::WriterForgetsItself {
            self.replicas[by].stamps.acknowledge(sequence, &Touched::of(&[slots(key)]));
        }
        self.acknowledged[key].get_or_insert((self.now(), self.step, by));
        Some(RevokerStage::Acknowledged { sequence })
    }

    /// Rule 14: the members are listed, then a renewal is sent, then both are judged.
    fn observe(
        &mut self,
        (key, by, lineages): (usize, usize, u64),
        mut wait: Wait,
        list: Option<List>,
    ) -> Option<RevokerStage> {
        let replica = &self.replicas[by];
        let Some(server) = replica.listens_to() else { return Some(RevokerStage::Waiting { wait, list }) };
        let beat = replica.channel.own().beat;
        let Some((members, unlisted, listed, listed_beat)) = list else {
            self.redis.servers[server].data.see_loss();
            let unlisted = self.redis.servers[server].data.unlisted(self.now(), self.broken);
            let list = Some((self.members(server, by), unlisted, self.now(), beat));
            return Some(RevokerStage::Waiting { wait, list });
        };
        if beat <= listed_beat || !replica.is_attached() {
            return Some(RevokerStage::Waiting { wait, list: Some((members, unlisted, listed, listed_beat)) });
        }
        let mut own = replica.channel.standing();
        match self.broken {
            Broken::WaitIgnoresFence => own.attached_since = Some(Moment::default()),
            Broken::WaitNeverStartsOver => {
                own.lineages = lineages;
            }
            _ => {}
        }
        let seen = Observation { asked: listed, listed, members: &members, unlisted, own, now: self.now() };
        match wait.observe(&seen) {
            Verdict::Pending => Some(RevokerStage::Waiting { wait, list: None }),
            Verdict::StartOver => Some(RevokerStage::Asked),
            Verdict::Done(report) => {
                // What it saw may be from before. Nothing is promised for those whose grace is named.
                let is_promised = report.graced.is_empty() && report.unlisted.is_none();
                if beat > self.flushed_at && is_promised {
                    self.returned[key].get_or_insert(self.step);
                }
                None
            }
        }
    }

    /// Moves the channel of the one who waits, often until it has nothing to do.
    fn attend(&mut self, by: usize) {
        for _ in 0..self.below(4) * 6 {
            self.follow_once(by);
            if self.replicas[by].listens_to().is_some() {
                break;
            }
        }
    }

    fn members(&self, server: usize, by: usize) -> Vec<Member> {
        let listed = self.redis.servers[server].data.members.iter().enumerate();
        let counted = listed.filter(|(number, _)| self.broken != Broken::WaitCountsItselfAlone || *number == by);
        let member = |(number, listed): (usize, &Option<Listed>)| {
            let listed = (*listed)?;
            Some(Member {
                id: number.to_string(),
                name: String::new(),
                position: Position { sequence: listed.sequence, chain: String::new() },
                beat: listed.beat,
                state: MemberState::Attached,
                since: Timestamp::default(),
                grace: Duration::from_millis(listed.grace),
                version: String::new(),
                format: 3,
            })
        };
        counted.filter_map(member).collect()
    }
}
