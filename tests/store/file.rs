//! The file of the embedded store: who owns it, who may read it, and what is said when it cannot be opened.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use redb::{ReadableDatabase, TableHandle};
use tollgate::store::format::Format;
use tollgate::store::{AuditQuery, KeyQuery, PepperCheck, Store, StoreError, UserQuery, Write};

use crate::signed;
use crate::support::{at, every_key, id, key, user};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn what_was_written_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    let sequence = store.apply(&[Write::CreateKey(key(1))]).unwrap();
    store.note_use(&[(id(1), at(7))]).unwrap();
    store.put_pepper_check(PepperCheck { version: 1, check: [1; 32] }).unwrap();
    drop(store);

    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    assert_eq!(every_key(&store), [key(1)]);
    assert_eq!(store.last_used(&[id(1)]).unwrap(), [Some(at(7))]);
    assert_eq!(store.pepper_checks().unwrap(), [PepperCheck { version: 1, check: [1; 32] }]);
    assert!(store.apply(&[]).unwrap() > sequence);
}

#[test]
fn only_its_owner_can_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let _store = signed::embedded(&path, Duration::ZERO).unwrap();
    for path in [&path, &folder.path().join("store.redb.reserve")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(signed::embedded(&path, Duration::ZERO).unwrap());
    let turn = |of: &Path, mode: u32| fs::set_permissions(of, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o602, 0o620, 0o660, 0o666, 0o777] {
        turn(&path, mode);
        let error = signed::embedded(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("can be written by others") && error.contains("chmod 600"), "{mode:o}: {error}");
    }
    for mode in [0o600, 0o640, 0o644] {
        turn(&path, mode);
        signed::embedded(&path, Duration::ZERO).unwrap();
    }
    // As Kubernetes hands a volume to a group.
    turn(folder.path(), 0o2770);
    turn(&path, 0o660);
    signed::embedded(&path, Duration::ZERO).unwrap();
    turn(&path, 0o662);
    signed::embedded(&path, Duration::ZERO).unwrap_err();
    // Only root can give it away.
    if rustix::process::geteuid().is_root() {
        turn(&path, 0o600);
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let error = signed::embedded(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("belongs to user 12345"), "{error}");
    }
}

#[test]
fn nothing_is_written_into_a_file_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("store.redb"), folder.path().join("aside.redb"));
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    store.apply(&[Write::CreateKey(key(1))]).unwrap();
    store.check().unwrap();

    fs::rename(&path, &aside).unwrap();
    let check = |is_gone: bool| match store.check() {
        Ok(()) => assert!(!is_gone),
        Err(error) => assert!(is_gone && error.to_string().contains("removed or replaced"), "{error}"),
    };
    check(true);
    assert!(matches!(store.apply(&[Write::CreateKey(key(2))]), Err(StoreError::Unavailable(_))));
    assert!(matches!(store.note_use(&[(id(1), at(7))]), Err(StoreError::Unavailable(_))));
    // Who is known stays known.
    assert_eq!(every_key(&store), [key(1)]);

    drop(signed::embedded(&path, Duration::ZERO).unwrap());
    check(true);
    fs::rename(&aside, &path).unwrap();
    check(false);
    store.apply(&[Write::CreateKey(key(2))]).unwrap();
    drop(store);
    assert_eq!(every_key(&signed::embedded(&path, Duration::ZERO).unwrap()), [key(1), key(2)]);
}

#[test]
fn the_file_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let first = signed::embedded(&path, Duration::ZERO).unwrap();
    let error = signed::embedded(&path, Duration::from_millis(50)).unwrap_err();
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("another process"), "{text}");

    let (waiting, waits) = mpsc::channel();
    let second = thread::spawn(move || {
        waiting.send(()).unwrap();
        signed::embedded(&path, LONG).unwrap()
    });
    waits.recv().unwrap();
    first.apply(&[Write::CreateKey(key(1))]).unwrap();
    drop(first);
    assert_eq!(every_key(&second.join().unwrap()), [key(1)]);
}

#[test]
fn many_may_make_it_at_once_and_one_store_comes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let threads: Vec<_> = (0..6)
        .map(|n| {
            let path = path.clone();
            thread::spawn(move || {
                let store = signed::embedded(&path, LONG).unwrap();
                store.apply(&[Write::CreateKey(key(n))]).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    assert_eq!(every_key(&store).len(), 6);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| signed::embedded(&folder.path().join(name), Duration::ZERO).unwrap_err();

    let error = open("missing/store.redb").to_string();
    assert!(error.contains("missing does not exist") && error.contains("store.embedded.path"), "{error}");

    fs::create_dir(folder.path().join("folder")).unwrap();
    let error = open("folder").to_string();
    assert!(error.contains("folder cannot be opened"), "{error}");

    fs::write(folder.path().join("text"), "This is no store.\n".repeat(1000)).unwrap();
    let error = open("text");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("text is not a store"), "{error}");

    fs::write(folder.path().join("empty"), "").unwrap();
    let error = open("empty").to_string();
    assert!(error.contains("empty is empty: restore it, or remove it"), "{error}");
    assert_eq!(fs::read(folder.path().join("text")).unwrap().len(), 18_000, "and nothing was touched");
}

#[test]
fn a_store_of_a_newer_tollgate_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(signed::embedded(&path, Duration::ZERO).unwrap());
    {
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 1_000).unwrap();
        write.commit().unwrap();
    }
    let error = signed::embedded(&path, Duration::ZERO).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)));
    assert!(error.to_string().contains("newer Tollgate"), "{error}");
}

/// A store from before there were users and an audit log, and one from before anything was said of projects.
#[test]
fn an_older_store_gets_what_it_lacks() {
    let since_users = [
        "users",
        "users_by_project",
        "ended_sessions",
        "ended_sessions_by_expiry",
        "sessions",
        "sessions_by_expiry",
        "users_by_plain_name",
        "keys_in_projects",
        "signing_keys",
        "audit",
        "audit_by_project",
        "once",
        "once_by_time",
        "projects",
        "removed_rows",
    ];
    let since_three = ["keys_in_projects", "sessions", "sessions_by_expiry", "users_by_plain_name", "removed_rows"];
    let stores = [
        (2, &since_users[..]),
        (2, &[&["projects"], &since_three[..]].concat()),
        (2, &since_three),
        (3, &["removed_rows"]),
    ];
    for (format, later) in stores {
        gets_what_it_lacks(format, later);
    }
}

/// Takes tables out of a store, which has this format then.
fn without(path: &Path, tables: &[&str], format: u64) {
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    let gone: Vec<_> = write.list_tables().unwrap().filter(|table| tables.contains(&table.name())).collect();
    assert_eq!(gone.len(), tables.len());
    for table in gone {
        assert!(write.delete_table(table).unwrap());
    }
    write.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", format).unwrap();
    write.commit().unwrap();
}

#[test]
fn a_store_of_this_release_that_lacks_a_table_is_damaged() {
    let newest = Format::NEWEST.in_file();
    for table in ["sessions", "ended_sessions", "users_by_project", "audit", "key_ids"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        signed::embedded(&path, Duration::ZERO).unwrap().apply(&[Write::CreateKey(key(1))]).unwrap();
        without(&path, &[table], newest);
        let error = signed::embedded(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)));
        assert!(
            error.to_string().contains(&format!("the table `{table}` is gone from it: restore a backup")),
            "{error}"
        );
    }
}

fn gets_what_it_lacks(format: u64, later: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let sequence = signed::embedded(&path, Duration::ZERO).unwrap().apply(&[Write::CreateKey(key(1))]).unwrap();
    let tables = |database: &redb::Database| database.begin_read().unwrap().list_tables().unwrap().count();
    let complete = tables(&redb::Database::open(&path).unwrap());
    without(&path, later, format);

    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    let store = Arc::new(store);
    let any = Store::Embedded(Arc::clone(&store));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert_eq!(any.user("ann".to_owned()).await.unwrap(), None);
        assert!(!any.ended_session("s-1".to_owned()).await.unwrap());
        assert!(any.signing_keys().await.unwrap().is_empty());
        assert_eq!(any.once([1; 32]).await.unwrap(), None);
        assert!(any.users(UserQuery { limit: 9, ..UserQuery::default() }).await.unwrap().is_empty());
        assert_eq!(any.project("acme".to_owned()).await.unwrap(), None);
    });
    assert!(store.audit(&AuditQuery { limit: 9, ..AuditQuery::default() }).unwrap().rows.is_empty());
    assert!(store.load_key(&[key(1).digest]).unwrap().is_some());
    assert_eq!(every_key(&store), [key(1)]);
    for plane in [None, Some(key(1).plane)] {
        let query = KeyQuery { project: Some(key(1).project), plane, after: None, limit: 9 };
        assert_eq!(store.keys(&query).unwrap(), [key(1)]);
    }
    assert_eq!(store.apply(&[Write::CreateUser(user("ann"))]).unwrap(), sequence + 1);
    assert_eq!(store.sequence().unwrap(), sequence + 1);
    drop((any, store));
    assert_eq!(tables(&redb::Database::open(&path).unwrap()), complete);
}

#[test]
fn a_damaged_record_is_an_error_and_not_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    signed::embedded(&path, Duration::ZERO).unwrap().apply(&[key(1), key(2)].map(Write::CreateKey)).unwrap();
    {
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut keys = write.open_table(redb::TableDefinition::<&[u8; 32], &[u8]>::new("keys")).unwrap();
            keys.insert(&key(1).digest.0, &b"junk"[..]).unwrap();
            keys.remove(&key(2).digest.0).unwrap();
        }
        write.commit().unwrap();
    }
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    assert!(matches!(store.key_by_digest(&[key(1).digest]), Err(StoreError::Damaged(_))));
    assert!(matches!(store.key(id(1)), Err(StoreError::Damaged(_))));
    assert!(matches!(store.key(id(2)), Err(StoreError::Damaged(_))));
    store.apply(&[Write::CreateKey(key(3))]).unwrap();
    assert_eq!(store.key(id(3)).unwrap(), Some(key(3)), "the rest of the store works");
}
