//! A model of two Redis servers: the scripts of the protocol, replication that lags, partitions and failovers. Knows no
//! replica of ours but by its number.

use std::time::Duration;

use tollgate::domain::change::{Ended, Event, LogEntry, Renewal};
use tollgate_guard::protocol::{Head, Position, Refused, Term, Unlisted};
use tollgate_guard::slots::Touched;
use tollgate_guard::time::{Moment, Timestamp};

use crate::replica::{KEYS, REPLICAS, digest, slots};
use crate::rules::Broken;

/// A renewal brings no more entries than this.
const PAGE: usize = 2;

/// `min-replicas-max-lag` 2, and a second in which nobody looks.
const REFUSES_AFTER: u64 = 3_000;
const PROMOTED_AFTER: u64 = 6_000;

/// Longer than a lease, and than a deposed primary goes on.
const OVER: u64 = 5_000;

/// What one entry of the log was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Ends(usize),
    /// Of nothing that anybody looks at.
    Other,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    pub sequence: u64,
    pub beat: u64,
    pub grace: u64,
}

/// What a server holds.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// None is 0.
    pub lineage: u64,
    /// Everything up to here was trimmed.
    base: u64,
    base_chain: u64,
    log: Vec<(u64, Change)>,
    pub revoked: [bool; KEYS],
    pub members: [Option<Listed>; REPLICAS],
    /// How many of them there must be.
    counted: u64,
    /// Until when the last one with a grace may go on without the store, and that grace.
    graced: (Moment, u64),
    /// The same, as it was when so many were first missing.
    lost: (u64, Moment, u64),
    /// The lineage and the place of a change that a replica has known and misses.
    missed: Option<(String, Position)>,
    /// Counts its writes, as replication does.
    offset: u64,
}

impl Data {
    pub fn sequence(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    pub fn is_lost(&self) -> bool {
        self.lineage == 0
    }

    /// Whether changes are made.
    pub fn is_open(&self) -> bool {
        !self.is_lost() && self.missed.is_none()
    }

    /// Rule 13.
    fn note(&mut self, member: usize, listed: Listed) {
        self.counted += u64::from(self.members[member].replace(listed).is_none());
    }

    pub fn forget(&mut self, member: usize) {
        self.counted -= u64::from(self.members[member].take().is_some());
    }

    /// The members that have been counted and are not listed.
    pub fn unlisted(&self, now: Moment, broken: Broken) -> Option<Unlisted> {
        let listed = self.members.iter().flatten().count() as u64;
        let count = self.counted.checked_sub(listed).filter(|count| *count > 0)?;
        let (until, grace) = match broken {
            Broken::ForgetsGraces => Default::default(),
            Broken::ProlongsLostGraces => self.graced,
            _ => (self.lost.1, self.lost.2),
        };
        let missing = Unlisted { count, still: until.since(now), grace: Duration::from_millis(grace) };
        (broken != Broken::CountsNoMembers).then_some(missing)
    }

    /// Rule 13: whoever is listed from now on prolongs no grace of those that are missing.
    pub fn see_loss(&mut self) {
        let listed = self.members.iter().flatten().count() as u64;
        let missing = self.counted.saturating_sub(listed);
        if missing > self.lost.0 {
            self.lost = (missing, self.graced.0, self.graced.1);
        }
    }

    /// Takes the list for whole, if so many are missing.
    pub fn recount(&mut self, missing: u64) {
        let listed = self.members.iter().flatten().count() as u64;
        if self.counted == listed + missing {
            self.counted = listed;
            self.lost = Default::default();
        }
    }

    /// Whether somebody misses what is still not there. Whoever says so for good is believed.
    fn is_missed(&mut self, asked: &Asked<'_>, is_gone: bool) -> bool {
        let lineage = self.lineage.to_string();
        if let Some(Refused { lineage: refused, known }) = asked.refused
            && *refused == lineage
            && (is_gone || known.lineage != lineage)
        {
            let unkept = self.misses(asked.acknowledged);
            let place = if unkept { asked.acknowledged } else { &known.position };
            self.missed = Some((known.lineage.clone(), place.clone()));
        }
        let is_there = |(known, place): &(String, Position)| *known == lineage && !self.misses(place);
        if self.missed.as_ref().is_some_and(is_there) {
            self.missed = None;
        }
        self.missed.is_some()
    }

    fn chain_at(&self, sequence: u64) -> Option<u64> {
        match sequence.checked_sub(self.base)? {
            0 => Some(self.base_chain),
            behind => self.log.get(behind as usize - 1).map(|(chain, _)| *chain),
        }
    }

    pub fn position(&self, sequence: u64) -> Position {
        let chain = self.chain_at(sequence).unwrap_or_default();
        Position { sequence, chain: if chain == 0 { String::new() } else { format!("{chain:x}") } }
    }

    pub fn append(&mut self, change: Change) -> u64 {
        let payload = match change {
            Change::Ends(key) => key as u64 + 2,
            Change::Other => 1,
        };
        let last = self.log.last().map_or(self.base_chain, |(chain, _)| *chain);
        // Two histories differ by what was written when: the offset stands for all that the model leaves out of a payload.
        let mixed = (last ^ (payload << 32) ^ (self.offset << 40)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.log.push(((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1, change));
        self.offset += 1;
        self.sequence()
    }

    fn entries_behind(&self, sequence: u64) -> Vec<LogEntry> {
        let skipped = (sequence - self.base) as usize;
        let numbered = self.log.iter().enumerate().skip(skipped).take(PAGE);
        let entry = |(at, (_, change)): (usize, &(u64, Change))| {
            let position = self.position(self.base + at as u64 + 1);
            LogEntry { position, event: event(*change) }
        };
        numbered.map(entry).collect()
    }

    pub fn has(&self, position: &Position, broken: Broken) -> bool {
        self.chain_at(position.sequence).is_some()
            && (broken == Broken::IdsAlone || self.position(position.sequence) == *position)
    }

    /// Whether it should have this place, as far as its log goes back, and has not.
    pub fn misses(&self, position: &Position) -> bool {
        position.sequence >= self.base && !self.has(position, Broken::Nothing)
    }

    /// Rule 8.
    fn renew(&mut self, member: usize, asked: &Asked<'_>, now: Moment, broken: Broken) -> Renewal {
        if self.is_lost() {
            return Renewal::Lost;
        }
        self.offset += 1;
        if self.members[member].is_none() {
            self.see_loss();
        }
        let head = Head { lineage: self.lineage.to_string(), position: self.position(self.sequence()) };
        let &Asked { position, acknowledged, beat, grace, .. } = asked;
        let is_unkept = match broken {
            Broken::AcknowledgedByNumber => acknowledged.sequence > self.sequence(),
            _ => self.misses(acknowledged),
        };
        let is_trimmed = position.sequence < self.base && !is_unkept;
        let is_there = self.has(position, broken) && !is_unkept;
        let is_gone = !is_there && !is_trimmed;
        let is_missed = self.is_missed(asked, is_gone) && broken != Broken::TellsNobody;
        if is_missed || !is_there {
            self.note(member, Listed { sequence: 0, beat, grace });
            return match self.missed.as_ref().filter(|_| is_missed && !is_gone) {
                Some((_, missed)) => Renewal::Missed { head, known: missed.sequence },
                None if is_trimmed => Renewal::Resync(head),
                None => Renewal::Gone(head),
            };
        }
        self.note(member, Listed { sequence: position.sequence, beat, grace });
        let until = now.plus(Duration::from_millis(grace + OVER));
        if grace > 0 && until > self.graced.0 {
            self.graced = (until, grace);
        }
        Renewal::Ahead { head, entries: self.entries_behind(position.sequence) }
    }
}

/// What a renewal says: up to where the replica has applied the log, what was acknowledged to it, its beat, its grace, and what it
/// refuses for good.
pub struct Asked<'a> {
    pub position: &'a Position,
    pub acknowledged: &'a Position,
    pub beat: u64,
    pub grace: u64,
    pub refused: Option<&'a Refused>,
}

fn event(change: Change) -> Event {
    match change {
        Change::Ends(0) => Event {
            touched: Touched::of(&[slots(0)]),
            ended: vec![Ended::Key { digest: digest(0), at: Timestamp::from_millis(1) }],
        },
        // Such as a project that was deleted: it touches keys, and ends none of them by itself.
        Change::Ends(key) => Event::touching(&[slots(key)]),
        Change::Other => Event { touched: Touched::Slots(vec![9]), ended: Vec::new() },
    }
}

#[derive(Clone, Debug, Default)]
pub struct Server {
    pub data: Data,
    /// What it takes itself for.
    pub is_primary: bool,
}

/// The primary and its standby.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    pub servers: [Server; 2],
    /// The one that the fleet's operator would name.
    pub primary: usize,
    /// Counts the failovers.
    pub term: u64,
    /// Since when the two cannot reach each other.
    cut: Option<Moment>,
    /// After a failover the other one has not come back yet, and is not waited for.
    is_alone: bool,
    /// Whether the standby holds a part of this primary's history.
    follows: bool,
    fenced: bool,
    lineages: u64,
    /// The primary's data as they were once, and the term then.
    copy: Option<(Data, u64)>,
    /// Whether a copy was put back, and nobody has said yet that it is right.
    pub went_back: bool,
    /// The same, whatever failover there was since: one that comes late explains nothing.
    pub needs_accepting: bool,
    /// Whether a replica has told the store that it is refused for good.
    pub was_told: bool,
    /// Whether there is one server alone, and so never a failover.
    is_single: bool,
}

impl Redis {
    pub fn new(fenced: bool, is_single: bool) -> Self {
        let mut redis = Self { fenced, is_single, is_alone: is_single, follows: true, ..Self::default() };
        redis.servers[0].is_primary = true;
        redis.restore();
        redis
    }

    fn standby(&self) -> usize {
        1 - self.primary
    }

    /// Whether a script that writes is done there.
    pub fn writes(&self, server: usize, now: Moment) -> bool {
        let is_cut_off = self.fenced
            && self.cut.is_some_and(|since| now.since(since).as_millis() as u64 >= REFUSES_AFTER)
            && !(self.is_alone && server == self.primary);
        self.servers[server].is_primary && !is_cut_off
    }

    /// Where somebody finds a primary; a choice where there are two.
    pub fn find(&self, random: u64) -> usize {
        let other = self.standby();
        if self.servers[other].is_primary && random & 1 == 1 { other } else { self.primary }
    }

    pub fn renew(
        &mut self,
        server: usize,
        now: Moment,
        member: usize,
        asked: &Asked<'_>,
        broken: Broken,
    ) -> Option<Renewal> {
        let renewal = self.writes(server, now).then(|| self.servers[server].data.renew(member, asked, now, broken));
        self.was_told = self.went_back && self.servers[self.primary].data.missed.is_some();
        renewal
    }

    /// What is known of failovers.
    pub fn known_term(&self) -> Term {
        if self.is_single { Term::Fixed } else { Term::Epoch(self.term) }
    }

    /// The list of members is gone, and nothing else.
    pub fn lose_members(&mut self) {
        self.servers[self.primary].data.members = Default::default();
    }

    /// What WAIT has to wait for.
    pub fn mark(&self, server: usize) -> Mark {
        Mark { server, term: self.term, offset: self.servers[server].data.offset }
    }

    pub fn is_replicated(&self, mark: Mark) -> bool {
        let standby = &self.servers[self.standby()].data;
        !self.is_broken(mark) && (self.is_alone || (self.follows && standby.offset >= mark.offset))
    }

    /// Whether the connection over which a write was made is gone, so that nobody can tell any more.
    pub fn is_broken(&self, mark: Mark) -> bool {
        mark.term != self.term || mark.server != self.primary
    }

    pub fn replicate(&mut self) {
        if self.cut.is_none() {
            let data = self.servers[self.primary].data.clone();
            let standby = self.standby();
            self.servers[standby].data = data;
            self.follows = true;
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    pub fn cut(&mut self, now: Moment) {
        if !self.is_single {
            self.cut.get_or_insert(now);
        }
    }

    /// The standby takes over from a primary that it cannot reach, which goes on for as long as it believes in itself.
    pub fn promote(&mut self, now: Moment) {
        let Some(since) = self.cut else { return };
        let waited = !self.fenced || now.since(since).as_millis() as u64 >= PROMOTED_AFTER;
        if waited && self.follows && !self.is_alone {
            self.change_primary();
            self.is_alone = true;
        }
    }

    /// An operator makes the standby the primary; the other one stops being it at the same moment.
    pub fn hand_over(&mut self) {
        if self.cut.is_none() && self.follows && !self.is_single {
            self.servers[self.primary].is_primary = false;
            self.change_primary();
        }
    }

    fn change_primary(&mut self) {
        // From here on it is what a failover may have brought.
        (self.went_back, self.was_told) = (false, false);
        self.primary = self.standby();
        self.servers[self.primary].is_primary = true;
        self.term += 1;
        self.follows = false;
        // What the new one writes is another history, though it counts from the same number.
        self.servers[self.primary].data.offset += self.term << 20;
    }

    pub fn heal(&mut self) {
        if self.cut.take().is_some() && std::mem::take(&mut self.is_alone) {
            let standby = self.standby();
            self.servers[standby].is_primary = false;
            self.replicate();
        }
    }

    /// Somebody keeps what the primary has.
    pub fn copy(&mut self) {
        self.copy = Some((self.servers[self.primary].data.clone(), self.term));
    }

    /// The primary is stopped, and comes back with the copy, as a server does that had not written everything to its disk; its
    /// standby follows it. There was no failover since.
    pub fn go_back(&mut self) -> bool {
        let (here, is_whole) = (&self.servers[self.primary].data, self.cut.is_none() && !self.went_back);
        let Some((copy, term)) = self.copy.take() else { return false };
        // Behind a log that was trimmed nobody can tell any more.
        let is_older = copy.lineage == here.lineage && copy.sequence() < here.sequence() && copy.base == here.base;
        if !is_whole || !is_older || term != self.term || here.is_lost() {
            return false;
        }
        let offset = here.offset + (1 << 30);
        for server in &mut self.servers {
            server.data = Data { offset, ..copy.clone() };
        }
        (self.went_back, self.needs_accepting, self.was_told) = (true, true, false);
        true
    }

    /// An operator takes the store as it is, and is told that the standby knows.
    pub fn accept(&mut self) {
        if self.is_cut() {
            return;
        }
        self.lineages += 1;
        (self.went_back, self.needs_accepting, self.was_told) = (false, false, false);
        let data = &mut self.servers[self.primary].data;
        (data.lineage, data.missed) = (self.lineages, None);
        data.append(Change::Other);
        self.replicate();
    }

    pub fn trim(&mut self, kept: usize) {
        if self.went_back {
            return;
        }
        let data = &mut self.servers[self.primary].data;
        let gone = data.log.len().saturating_sub(kept);
        if let Some((chain, _)) = data.log[..gone].last() {
            data.base_chain = *chain;
            data.base += gone as u64;
            data.log.drain(..gone);
        }
    }

    /// Everything is gone, on both: nothing can be promised where a failover brings back what somebody else emptied.
    pub fn flush(&mut self) {
        let offset = self.servers[self.primary].data.offset + 1;
        (self.went_back, self.needs_accepting, self.was_told) = (false, false, false);
        for server in &mut self.servers {
            server.data = Data { offset, ..Data::default() };
        }
    }

    /// An operator makes a new head, with records from a time when nothing was revoked.
    pub fn restore(&mut self) {
        self.lineages += 1;
        let data = &mut self.servers[self.primary].data;
        if data.is_lost() {
            *data = Data { lineage: self.lineages, offset: data.offset + 1, ..Data::default() };
        }
    }
}

/// A place in a server's replication.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub server: usize,
    term: u64,
    offset: u64,
}
