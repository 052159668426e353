//! `kill -9` while keys are minted and revoked: nothing that was acknowledged is lost, and the store opens again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tollgate::store::{KeyQuery, Write};

use crate::signed;
use crate::support::{Random, every_key, key, revoked};

const STORE: &str = "TOLLGATE_TEST_MINT_INTO";
const FIRST: &str = "TOLLGATE_TEST_MINT_FROM";
const ROUNDS: u64 = 100;

/// The child: mints until it is killed, and says what was acknowledged. Nothing to do in an ordinary run.
#[test]
fn mint_until_killed() {
    let Ok(path) = std::env::var(STORE) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = signed::embedded(Path::new(&path), Duration::from_secs(10)).unwrap();
    // Lines shorter than a pipe's buffer are written whole.
    let say = |line: String| std::io::stderr().write_all(line.as_bytes()).unwrap();
    say("open\n".to_owned());
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, say) = (&store, &say);
            scope.spawn(move || {
                for n in (first + thread..).step_by(2) {
                    store.apply(&[Write::CreateKey(key(n))]).unwrap();
                    say(format!("minted {n}\n"));
                    if n % 3 == 0 {
                        store.apply(&[Write::UpdateKey(revoked(&key(n)))]).unwrap();
                        say(format!("revoked {n}\n"));
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut random = Random(2);
    // Key number to whether its revocation was acknowledged.
    let mut acknowledged: HashMap<u64, bool> = HashMap::new();
    let mut next = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::mint_until_killed", "--nocapture"])
            .env(STORE, &path)
            .env(FIRST, next.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = BufReader::new(child.stderr.take().unwrap());
        let mut heard = String::new();
        // Now and then it dies while it opens the store; else somewhere in the write after a few that it acknowledged.
        if round % 10 != 9 {
            for _ in 0..=random.below(6) {
                assert_ne!(pipe.read_line(&mut heard).unwrap(), 0, "round {round}: the child ended by itself");
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        pipe.read_to_string(&mut heard).unwrap();
        for line in heard.lines().filter(|line| *line != "open") {
            let (what, n) = line.split_once(' ').unwrap_or_else(|| panic!("round {round}: the child said {line}"));
            acknowledged.insert(n.parse().unwrap(), what == "revoked");
        }

        let begun = Instant::now();
        let store = signed::embedded(&path, Duration::ZERO).unwrap();
        slowest = slowest.max(begun.elapsed());
        let stored = store.keys(&KeyQuery { limit: usize::MAX, ..KeyQuery::default() }).unwrap();
        next = stored.last().map_or(0, |key| key.id.as_str().parse::<u64>().unwrap() + 1);
        let found: HashMap<u64, bool> =
            stored.iter().map(|key| (key.id.as_str().parse().unwrap(), key.revoked_at.is_some())).collect();
        for (n, revoked) in &acknowledged {
            let found = found.get(n).unwrap_or_else(|| panic!("round {round}: key {n} is lost"));
            assert!(*found || !revoked, "round {round}: the revocation of key {n} is lost");
        }
    }
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    let stored = every_key(&store).len();
    println!(
        "{ROUNDS} kills: {} keys acknowledged, {stored} stored, 0 lost; opened in {slowest:?} at most",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 100, "the child came to work");
}
