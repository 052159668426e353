//! What is left of a revoked key, when it goes, and copies of the store that are put back: a scheduler that picks, by a seed, what
//! happens next. A key that was revoked is never let in again (S3), and each part of the rule of the purge is needed (rule 16).

use tollgate::domain::record::{ApiKey, KeyState};
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

const RUNS: u64 = 20_000;
const STEPS: usize = 60;
/// No older copy is ever put back.
const KEPT: u64 = 90;
const TIMES: [u64; 6] = [1, 5, 20, 60, 91, 200];

/// A part of the rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Purges what was revoked and has expired, however short a time ago.
    PurgesAtOnce,
    /// Goes by the expiry alone, which may have been brought forward since a copy was made.
    GoesByExpiryAlone,
    /// Goes by the clock of whoever purges, which may run ahead.
    GoesByOneClock,
}

struct World {
    random: u64,
    now: u64,
    /// As it stands in the store; `None`: it was purged.
    key: Option<ApiKey>,
    /// Each with the time when it was made.
    copies: Vec<(u64, Option<ApiKey>)>,
    /// Whether a revocation was acknowledged.
    is_revoked: bool,
    purges: u64,
}

fn at(time: u64) -> Timestamp {
    Timestamp::from_millis(time)
}

impl World {
    fn new(seed: u64) -> Self {
        let key = ApiKey {
            id: KeyId::parse("000000000000").unwrap(),
            digest: Digest([0; 32]),
            pepper_version: 1,
            name: "key".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            project_id: None,
            workloads: Vec::new(),
            permissions: Vec::new(),
            created_at: at(1_000),
            created_by: "operator".to_owned(),
            expires_at: None,
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            version: 1,
        };
        Self { random: seed, now: 1_000, key: Some(key), copies: Vec::new(), is_revoked: false, purges: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Whether the key is let in though it was revoked.
    fn step(&mut self, broken: Broken) -> bool {
        match self.below(6) {
            0 => self.now += TIMES[self.below(TIMES.len() as u64) as usize],
            1 => self.copies.push((self.now, self.key.clone())),
            2 => self.revoke(),
            3 => self.change_expiry(),
            4 => self.purge(broken),
            _ => self.go_back(),
        }
        let state = self.key.as_ref().map(|key| key.state(at(self.now)));
        self.is_revoked && matches!(state, Some(KeyState::Active | KeyState::Retiring))
    }

    fn revoke(&mut self) {
        let now = at(self.now);
        if let Some(key) = &mut self.key {
            key.revoked_at.get_or_insert(now);
            self.is_revoked = true;
        }
    }

    /// It may be brought forward, or back, as long as the key works.
    fn change_expiry(&mut self) {
        let expiry = at(self.now + self.below(300)).minus(std::time::Duration::from_millis(self.below(300)));
        let now = at(self.now);
        if let Some(key) = self.key.as_mut().filter(|key| key.state(now) == KeyState::Active) {
            key.expires_at = Some(expiry);
        }
    }

    fn purge(&mut self, broken: Broken) {
        // Whoever purges may have a clock that is wrong, and goes by the store's as well.
        let own = self.now + self.below(2) * self.below(400);
        let now = if broken == Broken::GoesByOneClock { own } else { own.min(self.now) };
        let before = at(now - KEPT);
        let Some(key) = &self.key else { return };
        let may_go = match broken {
            Broken::Nothing | Broken::GoesByOneClock => key.is_over_before(before),
            Broken::PurgesAtOnce => key.is_over_before(at(self.now)),
            Broken::GoesByExpiryAlone => key.revoked_at.is_some() && key.expires_at.is_some_and(|end| end < before),
        };
        if may_go {
            self.key = None;
            self.purges += 1;
        }
    }

    /// A copy is put back, and what was revoked since is revoked again, as far as something is left of it.
    fn go_back(&mut self) {
        let oldest = self.now - KEPT;
        let usable: Vec<_> = self.copies.iter().filter(|(made, _)| *made >= oldest).cloned().collect();
        if usable.is_empty() {
            return;
        }
        let (_, copy) = usable[self.below(usable.len() as u64) as usize].clone();
        let revoked_at = self.key.as_ref().and_then(|key| key.revoked_at);
        self.key = copy.map(|key| ApiKey { revoked_at: key.revoked_at.or(revoked_at), ..key });
    }
}

/// The first run in which a revoked key is let in, and how often a key was purged until then.
fn first_revival(broken: Broken) -> (Option<u64>, u64) {
    let mut purges = 0;
    for seed in 0..RUNS {
        let mut world = World::new(seed);
        let is_let_in = (0..STEPS).any(|_| world.step(broken));
        purges += world.purges;
        if is_let_in {
            return (Some(seed), purges);
        }
    }
    (None, purges)
}

#[test]
fn no_copy_brings_back_what_was_revoked_and_purged() {
    let (revived, purges) = first_revival(Broken::Nothing);
    assert_eq!(revived, None);
    assert!(purges > RUNS / 20, "{purges} purges in {RUNS} runs");
}

#[test]
fn each_part_of_the_rule_is_needed() {
    for broken in [Broken::PurgesAtOnce, Broken::GoesByExpiryAlone, Broken::GoesByOneClock] {
        assert!(first_revival(broken).0.is_some(), "{broken:?}");
    }
}
