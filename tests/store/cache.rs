//! The cache in front of the store: one flight, bounded flights, and no entry that a change has overtaken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tollgate::clock::Clock;
use tollgate::resolve::ResolveError;
use tollgate::resolve::cache::{Cache, Loaded, Sizes};
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::{Slots, Touched};
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Moment;

use crate::support::Random;

const SIZES: Sizes = Sizes { known: 1000, unknown: 100, loads: 16 };

fn digest(n: u64) -> Digest {
    let mut random = Random(n);
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    Digest(bytes)
}

fn slots(n: u64) -> Slots {
    Slots::of_digests(&[digest(n)])
}

fn found(n: u64, value: u64) -> Result<Loaded<u64>, ResolveError> {
    Ok(Loaded { value: Some(Arc::new(value)), slots: slots(n) })
}

fn absent(n: u64) -> Result<Loaded<u64>, ResolveError> {
    Ok(Loaded { value: None, slots: slots(n) })
}

fn cache(sizes: Sizes) -> (Arc<Cache<u64>>, Arc<Stamps>) {
    let stamps = Arc::new(Stamps::sole(Clock::System));
    (Arc::new(Cache::new(Arc::clone(&stamps), sizes)), stamps)
}

#[tokio::test]
async fn a_thousand_misses_make_one_flight() {
    let (cache, _) = cache(SIZES);
    let (gate, loads) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let (cache, gate, loads) = (Arc::clone(&cache), Arc::clone(&gate), Arc::clone(&loads));
            tokio::spawn(async move {
                let load = || {
                    loads.fetch_add(1, Ordering::SeqCst);
                    let gate = Arc::clone(&gate);
                    async move {
                        let _open = gate.acquire().await.unwrap();
                        found(1, 42)
                    }
                };
                cache.load(digest(1), load).await.unwrap().value
            })
        })
        .collect();
    // On one thread each task has joined the flight when it first waits.
    while loads.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    for task in waiting {
        assert_eq!(task.await.unwrap().as_deref(), Some(&42));
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(cache.stats().loads, 1);
    assert_eq!(cache.get(&digest(1), Duration::ZERO).unwrap().value.as_deref(), Some(&42));
}

#[tokio::test]
async fn a_load_that_a_change_overtook_is_not_served() {
    let (cache, stamps) = cache(SIZES);
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let early = tokio::spawn({
        let (cache, begun, gate) = (Arc::clone(&cache), Arc::clone(&begun), Arc::clone(&gate));
        async move {
            let load = || {
                let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
                async move {
                    begun.notify_one();
                    let _open = gate.acquire().await.unwrap();
                    found(1, 1)
                }
            };
            cache.load(digest(1), load).await.unwrap().value
        }
    });
    begun.notified().await;
    // The change is durable, visible and acknowledged while the old value is on its way.
    stamps.apply(1, &Touched::of(&[slots(1)]));
    let late = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.load(digest(1), || async { found(1, 2) }).await.unwrap().value }
    });
    tokio::task::yield_now().await;
    gate.add_permits(1);
    assert_eq!(late.await.unwrap().as_deref(), Some(&2), "who came after the change gets what it changed to");
    assert_eq!(early.await.unwrap().as_deref(), Some(&1), "who came before it may get what was before");
    assert_eq!(cache.get(&digest(1), Duration::ZERO).unwrap().value.as_deref(), Some(&2));
}

#[tokio::test]
async fn what_a_change_overtook_is_not_cached() {
    let (cache, stamps) = cache(SIZES);
    let overtaken = || {
        let stamps = Arc::clone(&stamps);
        async move {
            stamps.apply(1, &Touched::of(&[slots(1)]));
            found(1, 1)
        }
    };
    assert_eq!(cache.load(digest(1), overtaken).await.unwrap().value.as_deref(), Some(&1));
    assert!(cache.get(&digest(1), Duration::ZERO).is_none());

    cache.load(digest(2), || async { absent(2) }).await.unwrap();
    assert!(cache.get(&digest(2), Duration::ZERO).unwrap().value.is_none());
    stamps.apply(2, &Touched::of(&[slots(2)]));
    assert!(cache.get(&digest(2), Duration::ZERO).is_none(), "a key that is made ends its absence");
    cache.load(digest(2), || async { found(2, 7) }).await.unwrap();
    assert_eq!(cache.get(&digest(2), Duration::ZERO).unwrap().value.as_deref(), Some(&7));
    stamps.raise_all();
    assert!(cache.get(&digest(2), Duration::ZERO).is_none());
}

#[tokio::test]
async fn other_slots_are_left_alone() {
    let (cache, stamps) = cache(SIZES);
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    for other in 2..100 {
        stamps.apply(other, &Touched::of(&[slots(other)]));
    }
    assert!(cache.get(&digest(1), Duration::ZERO).is_some());
}

#[tokio::test]
async fn unknown_digests_push_no_known_one_out() {
    let (cache, _) = cache(Sizes { known: 500, unknown: 50, loads: 4 });
    for n in 0..300 {
        cache.load(digest(n), || async move { found(n, n) }).await.unwrap();
    }
    for n in 1000..6000 {
        cache.load(digest(n), || async move { absent(n) }).await.unwrap();
    }
    for n in 0..300 {
        assert_eq!(cache.get(&digest(n), Duration::ZERO).unwrap().value.as_deref(), Some(&n));
    }
    let kept = (1000..6000).filter(|n| cache.get(&digest(*n), Duration::ZERO).is_some()).count();
    assert!(kept <= 200, "{kept} unknown ones are kept");
}

#[tokio::test]
async fn known_ones_are_bounded_and_what_is_asked_for_stays() {
    let (cache, _) = cache(Sizes { known: 500, ..SIZES });
    for n in 0..5000 {
        cache.load(digest(n), || async move { found(n, n) }).await.unwrap();
        if n >= 1000 {
            assert!(cache.get(&digest(1000), Duration::ZERO).is_some(), "pushed out by {n}");
        }
    }
    assert!((250..=512).contains(&cache.stats().entries), "{}", cache.stats().entries);
}

#[tokio::test]
async fn what_was_found_and_is_gone_is_not_found_again() {
    let (cache, stamps) = cache(SIZES);
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    stamps.apply(1, &Touched::of(&[slots(1)]));
    cache.load(digest(1), || async { absent(1) }).await.unwrap();
    assert!(cache.get(&digest(1), Duration::ZERO).unwrap().value.is_none());
    stamps.apply(2, &Touched::of(&[slots(1)]));
    cache.load(digest(1), || async { found(1, 2) }).await.unwrap();
    assert_eq!(cache.get(&digest(1), Duration::ZERO).unwrap().value.as_deref(), Some(&2));
}

#[tokio::test]
async fn a_flood_of_unknown_digests_keeps_no_known_one_out() {
    let (cache, stamps) = cache(Sizes { loads: 1, ..SIZES });
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    stamps.apply(1, &Touched::All);
    let held = cache.load(digest(2), std::future::pending);
    tokio::pin!(held);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut held).await.is_err());
    let refused = cache.load(digest(3), || async { absent(3) }).await;
    assert!(matches!(refused, Err(ResolveError::Unavailable)), "{refused:?}");
    assert_eq!(cache.load(digest(1), || async { found(1, 2) }).await.unwrap().value.as_deref(), Some(&2));
}

#[tokio::test]
async fn too_many_flights_are_refused() {
    let (cache, _) = cache(Sizes { loads: 2, ..SIZES });
    let gate = Arc::new(Semaphore::new(0));
    let hold = |n| {
        let (cache, gate) = (Arc::clone(&cache), Arc::clone(&gate));
        tokio::spawn(async move {
            let load = || {
                let gate = Arc::clone(&gate);
                async move {
                    let _open = gate.acquire().await.unwrap();
                    found(n, n)
                }
            };
            cache.load(digest(n), load).await.map(|resolved| resolved.value)
        })
    };
    let held = [hold(1), hold(2), hold(1), hold(2)];
    while cache.stats().loads < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cache.load(digest(3), || async { found(3, 3) }).await.unwrap_err(), ResolveError::Unavailable);
    assert_eq!(cache.stats().refused_loads, 1);
    gate.add_permits(1);
    for task in held {
        assert!(task.await.unwrap().is_ok(), "who joins a flight needs no place of their own");
    }
    assert!(cache.load(digest(3), || async { found(3, 3) }).await.is_ok());
}

#[tokio::test]
async fn a_panic_in_a_load_ends_with_it() {
    let (cache, _) = cache(Sizes { loads: 1, ..SIZES });
    for _ in 0..3 {
        let load = || async { panic!("a forced panic") };
        assert_eq!(cache.load(digest(1), load).await.unwrap_err(), ResolveError::Unavailable);
    }
    assert_eq!(cache.load(digest(1), || async { found(1, 1) }).await.unwrap().value.as_deref(), Some(&1));
}

#[tokio::test]
async fn an_error_is_not_kept() {
    let (cache, _) = cache(Sizes { loads: 1, ..SIZES });
    let broken = || async { Err(ResolveError::Damaged) };
    assert_eq!(cache.load(digest(1), broken).await.unwrap_err(), ResolveError::Damaged);
    assert!(cache.get(&digest(1), Duration::ZERO).is_none());
    assert!(cache.load(digest(1), || async { found(1, 1) }).await.is_ok());
}

#[tokio::test]
async fn a_load_goes_on_when_nobody_waits() {
    let (cache, _) = cache(SIZES);
    let gate = Arc::new(Semaphore::new(0));
    let caller = tokio::spawn({
        let (cache, gate) = (Arc::clone(&cache), Arc::clone(&gate));
        async move {
            let load = || {
                let gate = Arc::clone(&gate);
                async move {
                    let _open = gate.acquire().await.unwrap();
                    found(1, 1)
                }
            };
            cache.load(digest(1), load).await.map(|_| ())
        }
    });
    while cache.stats().loads < 1 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    while cache.get(&digest(1), Duration::ZERO).is_none() {
        tokio::task::yield_now().await;
    }
}

/// Writers and readers at once: nobody reads anything older than what was acknowledged before they asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_older_than_what_was_acknowledged_is_read() {
    const THINGS: u64 = 4;
    // What is durable, and what was acknowledged.
    struct Truth {
        sequence: tokio::sync::Mutex<u64>,
        stored: [AtomicU64; THINGS as usize],
        acknowledged: [AtomicU64; THINGS as usize],
    }
    let truth = Arc::new(Truth {
        sequence: tokio::sync::Mutex::new(0),
        stored: Default::default(),
        acknowledged: Default::default(),
    });
    let (cache, stamps) = cache(SIZES);
    let writing = Arc::new(AtomicU64::new(THINGS));
    let mut tasks = Vec::new();
    for thing in 0..THINGS {
        let (truth, stamps, writing) = (Arc::clone(&truth), Arc::clone(&stamps), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            let mut random = Random(thing);
            for _ in 0..300 {
                let (sequence, version) = {
                    let mut sequence = truth.sequence.lock().await;
                    *sequence += 1;
                    (*sequence, truth.stored[thing as usize].fetch_add(1, Ordering::SeqCst) + 1)
                };
                pause(&mut random).await;
                stamps.apply(sequence, &Touched::of(&[slots(thing)]));
                truth.acknowledged[thing as usize].fetch_max(version, Ordering::SeqCst);
                pause(&mut random).await;
            }
            writing.fetch_sub(1, Ordering::SeqCst);
            0
        }));
    }
    for reader in 0..8 {
        let (truth, cache, writing) = (Arc::clone(&truth), Arc::clone(&cache), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            let (mut random, mut hits) = (Random(100 + reader), 0);
            while writing.load(Ordering::SeqCst) > 0 {
                let thing = random.below(THINGS);
                let before = truth.acknowledged[thing as usize].load(Ordering::SeqCst);
                let seen = match cache.get(&digest(thing), Duration::ZERO) {
                    Some(hit) => {
                        hits += 1;
                        hit
                    }
                    None => {
                        let load = || {
                            let (truth, mut random) = (Arc::clone(&truth), Random(random.0));
                            async move {
                                pause(&mut random).await;
                                let value = truth.stored[thing as usize].load(Ordering::SeqCst);
                                pause(&mut random).await;
                                found(thing, value)
                            }
                        };
                        cache.load(digest(thing), load).await.unwrap()
                    }
                };
                let seen = *seen.value.unwrap();
                assert!(seen >= before, "thing {thing}: read {seen} after {before} was acknowledged");
                tokio::task::yield_now().await;
            }
            hits
        }));
    }
    let mut hits = 0;
    for task in tasks {
        hits += task.await.unwrap();
    }
    let loads = cache.stats().loads;
    println!("{} changes, {loads} loads, {hits} hits", truth.sequence.lock().await);
    assert!(loads > 100 && hits > 100, "there was something to get wrong");
}

async fn pause(random: &mut Random) {
    match random.below(8) {
        0 => tokio::time::sleep(Duration::from_micros(random.below(2000))).await,
        1..=4 => tokio::task::yield_now().await,
        _ => {}
    }
}

/// A cache that has had a lease, with a clock that is set by hand to 10,000.
fn leased() -> (Cache<u64>, Arc<Stamps>, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(10_000));
    let stamps = Arc::new(Stamps::leased(Clock::Manual(Arc::clone(&now))));
    stamps.grant(Moment::from_millis(9_000));
    (Cache::new(Arc::clone(&stamps), SIZES), stamps, now)
}

#[tokio::test]
async fn without_a_lease_an_entry_is_as_good_as_its_own_load_is_young() {
    let (cache, stamps, now) = leased();
    let is_served = |cache: &Cache<u64>| cache.get(&digest(1), Duration::ZERO).is_some();
    // Sent at 10,000.
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    for (at, expected) in [(10_000, true), (10_799, true), (10_800, false), (99_999, false)] {
        now.store(at, Ordering::SeqCst);
        assert_eq!(is_served(&cache), expected, "at {at}");
    }
    // Under a lease that began at 99,999 it is good to the end of it, and not a moment longer.
    stamps.grant(Moment::from_millis(100_799));
    assert!(is_served(&cache));
    now.store(100_799, Ordering::SeqCst);
    assert!(!is_served(&cache));
    // A shorter lease takes nothing back.
    stamps.grant(Moment::from_millis(100_900));
    stamps.grant(Moment::from_millis(100_100));
    assert!(is_served(&cache));
}

#[tokio::test]
async fn a_load_without_a_lease_counts_from_when_it_was_sent() {
    let (cache, _, now) = leased();
    let clock = Arc::clone(&now);
    let slow = move || {
        let clock = Arc::clone(&clock);
        async move {
            clock.store(10_700, Ordering::SeqCst);
            found(1, 1)
        }
    };
    cache.load(digest(1), slow).await.unwrap();
    assert!(cache.get(&digest(1), Duration::ZERO).is_some());
    now.store(10_800, Ordering::SeqCst);
    assert!(cache.get(&digest(1), Duration::ZERO).is_none());
}

#[tokio::test]
async fn grace_extends_a_lease_that_there_was_and_nothing_else() {
    let (cache, stamps, now) = leased();
    let grace = Duration::from_secs(30);
    let never = Arc::new(Stamps::leased(Clock::Manual(Arc::clone(&now))));
    let alone = Cache::new(never, SIZES);
    for cache in [&cache, &alone] {
        cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    }
    assert!(alone.get(&digest(1), grace).is_none(), "there was no lease yet");
    now.store(11_000, Ordering::SeqCst);
    stamps.grant(Moment::from_millis(11_500));
    now.store(41_499, Ordering::SeqCst);
    assert!(cache.get(&digest(1), grace).is_some() && cache.get(&digest(1), Duration::ZERO).is_none());
    // What was heard of counts in the grace, too.
    stamps.apply(1, &Touched::of(&[slots(1)]));
    assert!(cache.get(&digest(1), grace).is_none());
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    assert!(cache.get(&digest(1), grace).is_some());
    stamps.seal();
    assert!(cache.get(&digest(1), grace).is_none(), "a store that lost its head leaves nothing standing");
    stamps.unseal();
    now.store(43_000, Ordering::SeqCst);
    assert!(cache.get(&digest(1), grace).is_none());
}

#[tokio::test]
async fn numbers_count_on_when_the_store_goes_back() {
    let (cache, stamps, _) = leased();
    stamps.grant(Moment::from_millis(99_999));
    stamps.apply(100, &Touched::of(&[slots(1)]));
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    cache.load(digest(2), || async { found(2, 1) }).await.unwrap();
    // The store has lost 20 changes, and gives their numbers anew.
    stamps.adopt(80);
    assert_eq!(stamps.position(), 80);
    for number in [1, 2] {
        assert!(cache.get(&digest(number), Duration::ZERO).is_none());
        cache.load(digest(number), || async move { found(number, 2) }).await.unwrap();
        assert!(cache.get(&digest(number), Duration::ZERO).is_some(), "what is loaded now is served");
    }
    stamps.apply(81, &Touched::of(&[slots(2)]));
    assert!(cache.get(&digest(1), Duration::ZERO).is_some() && cache.get(&digest(2), Duration::ZERO).is_none());
    assert_eq!(stamps.position(), 81);
}

#[tokio::test]
async fn who_makes_a_change_hears_of_it_before_its_turn() {
    let (cache, stamps, _) = leased();
    stamps.grant(Moment::from_millis(99_999));
    cache.load(digest(1), || async { found(1, 1) }).await.unwrap();
    // Its number is 3; the changes of others before it have not been applied here yet.
    stamps.acknowledge(3, &Touched::of(&[slots(1)]));
    assert!(cache.get(&digest(1), Duration::ZERO).is_none());
    assert_eq!(stamps.position(), 0, "the log is followed in its order");
    for (sequence, other) in [(1, 7), (2, 8), (3, 1)] {
        stamps.apply(sequence, &Touched::of(&[slots(other)]));
    }
    cache.load(digest(1), || async { found(1, 2) }).await.unwrap();
    assert_eq!(cache.get(&digest(1), Duration::ZERO).unwrap().value.as_deref(), Some(&2));
}
