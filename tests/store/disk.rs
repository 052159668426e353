//! A disk that is really full: a small one of its own, which others fill, too. Never fills the disk that the tests run on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::domain::record::{AuditEntry, OpenSession, Outcome, STORE_BACKUP, User};
use tollgate::registry::{Actor, RegistryError};
use tollgate::store::embedded::Embedded;
use tollgate::store::{AuditQuery, Store, StoreError, Write};

use crate::faults::{Fault, Faulty, RECOVERY};
use crate::registry_fixture::RegistryFixture;
use crate::signed;
use crate::support::{Apply, at, every_key, id, key, revoked, row, user};

/// Where the small disk is; in a process that has one.
const SMALL_DISK: &str = "TOLLGATE_TEST_SMALL_DISK";

const NAME: &str = "disk::a_disk_that_was_filled_keeps_room_for_every_end";

/// Runs itself in a mount namespace of its own, where there is a disk of 26 MiB.
#[test]
fn a_disk_that_was_filled_keeps_room_for_every_end() {
    if let Ok(disk) = std::env::var(SMALL_DISK) {
        return fill(Path::new(&disk));
    }
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    if !namespace().arg("true").status().is_ok_and(|status| status.success()) {
        println!("not run: this machine lets nobody make a mount namespace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=26m tmpfs \"$0\" && exec \"$@\"";
    let status = namespace()
        .args(["sh", "-c", mount])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(SMALL_DISK, folder.path())
        .status();
    assert!(status.unwrap().success());
}

fn fill(disk: &Path) {
    let (path, kept) = (disk.join("store.redb"), disk.join("store.redb.reserve"));
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    let whole = fs::metadata(&kept).unwrap().len();
    fs::write(disk.join("other"), vec![1; 2 << 20]).unwrap();
    store.apply(&[Write::CreateUser(user("ann")), Write::CreateUser(user("bob"))]).unwrap();

    let next = make_keys_until_full(&store);
    assert_eq!(fs::metadata(&kept).unwrap().len(), whole, "what is kept is not for keys");
    fill_up(disk);
    let copied = AuditEntry { act: STORE_BACKUP.to_owned(), ..row("store") };
    store.apply(&[Write::Audit(copied)]).unwrap();
    fill_up(disk);
    for n in 0..20 {
        assert_full(store.apply(&[Write::CreateKey(key(next + n))]));
        assert_full(store.note_use(&[(id(1), at(1))]));
        assert_full(store.apply(&[Write::Audit(row("a refusal"))]));
        assert_full(store.apply(&[Write::UpdateKey(revoked(&key(1))), Write::CreateKey(key(next))]));
        assert_eq!(store.key(id(n)).unwrap(), Some(key(n)), "reads go on");
    }
    // Somebody takes at once whatever is given back.
    for n in 1..=4 {
        store.apply(&[Write::UpdateKey(revoked(&key(n))), Write::Audit(row("end"))]).unwrap();
        fill_up(disk);
    }
    let session = tollgate::domain::record::EndedSession {
        id: "s".to_owned(),
        user: "bob".to_owned(),
        ended_at: at(1),
        expires_at: at(9),
    };
    store.apply(&[Write::EndSession(session)]).unwrap();
    store.apply(&[Write::UpdateUser(User { disabled: true, sessions: 2, version: 2, ..user("ann") })]).unwrap();
    store.apply(&[Write::UpdateUser(User { sessions: 2, version: 2, ..user("bob") })]).unwrap();
    store.apply(&[]).unwrap();
    for n in 5..100 {
        store.apply(&[Write::UpdateKey(revoked(&key(n))), Write::Audit(row("end"))]).unwrap();
    }
    fill_up(disk);
    assert_eq!(store.trim_audit(at(9), 9).unwrap(), 9);
    let trimmed = AuditEntry { act: "audit.trim".to_owned(), ..row("audit") };
    store.apply(&[Write::Audit(trimmed.clone())]).unwrap();
    assert_full(store.apply(&[Write::Audit(AuditEntry { outcome: Outcome::Refused, ..trimmed })]));

    drop(store);
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    let all = every_key(&store);
    assert_eq!(all.iter().filter(|key| key.revoked_at.is_some()).count(), 99, "each of them is durable");
    assert_full(store.apply(&[Write::CreateKey(key(next))]));
    store.apply(&[Write::UpdateKey(revoked(&key(100)))]).unwrap();
    let (began_at, expires_at) = (at(1), at(9));
    let session = OpenSession { id: "s".to_owned(), generation: 1, began_at, expires_at, address: None };
    store.apply(&[Write::BeginSession { user: "ann".to_owned(), session }]).unwrap();

    fs::remove_file(disk.join("other")).unwrap();
    fs::remove_file(disk.join("ballast")).unwrap();
    let ended = Instant::now();
    while let Err(error) = store.apply(&[Write::CreateKey(key(next))]) {
        assert!(ended.elapsed() < RECOVERY, "{error}");
    }
    assert_eq!(fs::metadata(&kept).unwrap().len(), whole, "it is kept again");
}

fn make_keys_until_full(store: &Embedded) -> u64 {
    let mut next = 0;
    loop {
        let batch: Vec<_> = (next..next + 200).map(|n| Write::CreateKey(key(n))).collect();
        match store.apply(&batch) {
            Ok(_) => next += 200,
            Err(StoreError::Full(_)) => return next,
            Err(error) => panic!("after {next} keys: {error}"),
        }
        assert!(next < 1_000_000, "it is never full");
    }
}

/// Leaves not one byte.
fn fill_up(disk: &Path) {
    let mut ballast = File::options().append(true).create(true).open(disk.join("ballast")).unwrap();
    for size in [1 << 20, 4096] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

#[track_caller]
fn assert_full<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Full(reason)) => assert!(reason.contains("only revocations"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rows_that_were_removed_are_told_of_whatever_fails_then() {
    let mut told = 0;
    for after in 0.. {
        let disk = Faulty::default();
        let fixture = RegistryFixture::on(Store::Embedded(Arc::new(disk.open().unwrap())));
        fixture.store.apply((0..5).map(|n| Write::Audit(row(&n.to_string()))).collect()).await.unwrap();
        disk.fail(Fault::Full, after, u64::MAX);
        let trimmed = fixture.registry.trim_audit(&Actor::operator(), at(9)).await;
        let ended = disk.end();
        let rows = loop {
            match fixture.store.audit(AuditQuery { limit: 9, ..AuditQuery::default() }).await {
                Ok(found) => break found.rows,
                Err(error) => assert!(ended.elapsed() < RECOVERY, "{error}"),
            }
        };
        let left = rows.iter().filter(|row| row.act == "key.create").count();
        match trimmed {
            Err(RegistryError::Unavailable(why)) if why.contains("4 rows were removed") => {
                assert_eq!(left, 1, "{why}");
                told += 1;
            }
            Err(error) => assert!(matches!(error, RegistryError::Unavailable(_)), "{error:?}"),
            Ok(done) => {
                assert_eq!((done, left, rows.len()), ((4, false), 1, 2));
                break;
            }
        }
        assert!(after < 1_000, "it always fails");
    }
    assert!(told > 0);
}
