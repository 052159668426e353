//! The two logs of a store, and records that were put back at an older version: what somebody does to them who can write the store and
//! has no pepper, and whether it is seen.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableTable};
use tempfile::TempDir;
use tollgate::domain::change::{Event, LogEntry};
use tollgate::domain::record::{ApiKey, EndedSession, OpenSession, ProjectState, SigningKey};
use tollgate::resolve::pepper::Pepper;
use tollgate::store::keyspace::{self, redis as names};
use tollgate::store::redis::connect::Connector;
use tollgate::store::signature::Distrusted;
use tollgate::store::upgrade::upgrade;
use tollgate::store::{Store, StoreError, Write};
use tollgate_core::resource::Resource;
use tollgate_guard::protocol::Position;
use tollgate_guard::slots::Touched;
use zeroize::Zeroizing;

use crate::redis::channel::{ahead, standing_at};
use crate::servers::Server;
use crate::signed;
use crate::support::{Apply, at, key, project, resource, revoked, row, user};

/// A store, of which somebody else has the bytes.
pub enum Place {
    File(PathBuf, #[allow(dead_code, reason = "it is removed with this")] TempDir),
    Redis(Server),
}

/// Numbers, and what stands there.
type Rows = Vec<(u64, Vec<u8>)>;

impl Place {
    pub fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::File(folder.path().join("store.redb"), folder)
    }

    pub fn redis() -> Self {
        Self::Redis(Server::start())
    }

    /// As a process opens it that remembers nothing.
    pub async fn open(&self) -> Store {
        match self {
            Self::File(path, _) => Store::Embedded(Arc::new(signed::embedded(path, Duration::from_secs(9)).unwrap())),
            Self::Redis(server) => {
                let redis = signed::redis(Connector::single(&server.address()).unwrap());
                redis.init().await.unwrap();
                Store::Redis(Arc::new(redis))
            }
        }
    }

    pub async fn found(&self) -> Distrusted {
        let store = self.open().await;
        assert_eq!(store.distrusted().await.unwrap().named, Vec::<String>::new(), "every record is ours");
        store.contradicted().await.unwrap()
    }

    fn rows(&self) -> Rows {
        match self {
            Self::File(path, _) => {
                let database = Database::open(path).unwrap();
                let write = database.begin_write().unwrap();
                let rows = write.open_table(keyspace::AUDIT).unwrap();
                rows.iter().unwrap().map(|row| row.unwrap()).map(|(n, row)| (n.value(), row.value().to_vec())).collect()
            }
            Self::Redis(server) => stream(server, names::AUDIT).into_iter().map(|(n, _, row)| (n, row)).collect(),
        }
    }

    fn put_rows(&self, rows: &Rows) {
        match self {
            Self::File(path, _) => {
                let database = Database::open(path).unwrap();
                let write = database.begin_write().unwrap();
                let mut table = write.open_table(keyspace::AUDIT).unwrap();
                table.retain(|_, _| false).unwrap();
                for (number, row) in rows {
                    table.insert(*number, &**row).unwrap();
                }
                drop(table);
                write.commit().unwrap();
            }
            Self::Redis(server) => {
                let rows = rows.iter().map(|(number, row)| (*number, Vec::new(), row.clone())).collect();
                put_stream(server, names::AUDIT, &rows);
            }
        }
    }
}

/// Each with its number, the fields before its last one, and that.
pub type Entries = Vec<(u64, Vec<Vec<u8>>, Vec<u8>)>;

pub fn stream(server: &Server, name: &str) -> Entries {
    let entries: Vec<(String, Vec<Vec<u8>>)> = server.command(&["XRANGE", name, "-", "+"]);
    let entry = |(id, mut fields): (String, Vec<Vec<u8>>)| {
        let value = fields.pop().unwrap();
        (id.split('-').next().unwrap().parse().unwrap(), fields, value)
    };
    entries.into_iter().map(entry).collect()
}

fn put_stream(server: &Server, name: &str, entries: &Entries) {
    let mut connection = server.client().get_connection().unwrap();
    server.command::<u64>(&["DEL", name]);
    for (number, fields, value) in entries {
        let mut command = ::redis::cmd("XADD");
        command.arg(name).arg(format!("{number}-0"));
        if fields.is_empty() {
            command.arg("p");
        }
        command.arg(fields).arg(value).exec(&mut connection).unwrap();
    }
}

pub fn open_session(id: &str) -> OpenSession {
    OpenSession { id: id.to_owned(), generation: 1, began_at: at(1), expires_at: at(1_000_000_000), address: None }
}

/// Some of everything, each with a row, some of which are refused.
async fn use_it(store: &Store, from: u64) {
    let named = |what: &str| format!("{what}-{from}");
    let thing = resource("workload", &named("w"), "acme");
    let ended = EndedSession { id: named("s"), user: named("ann"), ended_at: at(2), expires_at: at(1_000_000_000) };
    let signing = SigningKey { id: named("k"), sealed: vec![1; 40], created_at: at(1) };
    let [one, two, gone] =
        [key(from), key(from + 1), ApiKey { expires_at: Some(at(3)), revoked_at: Some(at(2)), ..key(from + 2) }];
    let moved = ApiKey { digest: key(from + 5).digest, version: 2, ..two.clone() };
    let batches = vec![
        vec![Write::PutProject(project(&named("project"), ProjectState::Active))],
        vec![Write::CreateKey(one.clone()), Write::CreateKey(two), Write::CreateKey(gone.clone())],
        vec![Write::UpdateKey(revoked(&one)), Write::Audit(row("in between")), Write::UpdateKey(moved)],
        vec![Write::CreateUser(user(&named("ann")))],
        vec![Write::BeginSession { user: named("ann"), session: open_session(&named("s")) }],
        vec![Write::BeginSession { user: named("ann"), session: open_session(&named("t")) }],
        vec![Write::EndSession(ended)],
        vec![Write::CreateResource(thing.clone())],
        vec![Write::UpdateResource(Resource { slug: "other".to_owned(), version: 2, ..thing.clone() })],
        vec![Write::DeleteResource { kind: thing.kind.clone(), id: thing.id.clone(), version: 2 }],
        // Its versions begin anew.
        vec![Write::CreateResource(thing)],
        vec![Write::CreateSigningKey(signing)],
        vec![Write::DeleteSigningKey { id: named("k") }],
        vec![Write::PurgeKey { id: gone.id, version: 1, before: at(9_000_000_000_000) }],
    ];
    for (n, mut batch) in batches.into_iter().enumerate() {
        batch.push(Write::Audit(row(&named("row"))));
        store.apply(batch).await.unwrap();
        assert!(
            n == 0 || store.apply(vec![Write::CreateKey(one.clone()), Write::Audit(row("refused"))]).await.is_err()
        );
    }
    // One without a row.
    store.apply(vec![Write::BeginSession { user: named("ann"), session: open_session(&named("u")) }]).await.unwrap();
}

async fn what_nobody_has_touched(place: Place) {
    for process in 0..3 {
        let store = place.open().await;
        use_it(&store, 10 + process * 100).await;
        if process == 1 {
            use_it(&store, 10_000).await;
            trim(&store, 20).await;
            trim(&store, 5).await;
        }
        drop(store);
        let found = place.found().await;
        assert_eq!(found.named, Vec::<String>::new(), "after process {process}");
        assert!(found.looked_at > 20);
    }
}

/// Removes so many of the oldest rows, and notes as an operator would that they are gone.
pub async fn trim(store: &Store, most: usize) {
    assert_eq!(store.trim_audit(at(u64::MAX >> 20), most).await.unwrap(), most);
    store.apply(vec![Write::Audit(row("trimmed"))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_has_touched_agrees_with_its_rows() {
    what_nobody_has_touched(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_redis_that_nobody_has_touched_agrees_with_its_logs() {
    what_nobody_has_touched(Place::redis()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_write_at_the_same_time_have_chains_of_their_own() {
    let place = Place::redis();
    let (one, other) = (place.open().await, place.open().await);
    for from in [10, 1_000, 2_000] {
        tokio::join!(use_it(&one, from), use_it(&other, from + 100));
        tokio::join!(one.trim_audit(at(u64::MAX >> 20), 7), other.trim_audit(at(u64::MAX >> 20), 9)).0.unwrap();
    }
    assert_eq!(one.contradicted().await.unwrap().named, Vec::<String>::new());
}

/// Something that is done to some rows or entries, with what it is called.
type Harm = (&'static str, fn(&mut Rows, usize));

const HARMS: [Harm; 7] = [
    ("one bit changed", |rows, n| {
        let at = rows[n].1.len() / 2;
        rows[n].1[at] ^= 1;
    }),
    ("without its signature", |rows, n| {
        let length = rows[n].1.len() - 39;
        rows[n].1.truncate(length);
    }),
    ("of a pepper that nobody knows", |rows, n| {
        let version = rows[n].1.len() - 36;
        rows[n].1[version + 3] = 99;
    }),
    ("another one's in its place", |rows, n| rows[n].1 = rows[n + 1].1.clone()),
    ("exchanged with the next", |rows, n| {
        let next = rows[n + 1].1.clone();
        rows[n + 1].1 = std::mem::replace(&mut rows[n].1, next);
    }),
    ("taken out", |rows, n| drop(rows.remove(n))),
    ("taken out, and the others numbered anew", |rows, n| {
        rows.remove(n);
        rows[n..].iter_mut().for_each(|row| row.0 -= 1);
    }),
];

async fn each_harm_is_named(place: Place) {
    let store = place.open().await;
    use_it(&store, 10).await;
    drop(store);
    let sound = place.rows();
    let (mut tried, mut unseen) = (0, Vec::new());
    for (what, harm) in HARMS {
        for n in [0, 1, sound.len() / 2, sound.len() - 2] {
            let mut rows = sound.clone();
            harm(&mut rows, n);
            place.put_rows(&rows);
            tried += 1;
            if place.found().await.found == 0 {
                unseen.push(format!("row {n} {what}"));
            }
        }
    }
    place.put_rows(&sound);
    assert_eq!(place.found().await.found, 0);
    println!("rows: {tried} tried, {} unseen", unseen.len());
    assert_eq!(unseen, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_a_file_that_somebody_changes_or_takes_out_is_named() {
    each_harm_is_named(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_in_redis_that_somebody_changes_or_takes_out_is_named() {
    each_harm_is_named(Place::redis()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_that_somebody_changes_or_takes_out_is_named_and_has_replicas_forget_what_they_cached() {
    let place = Place::redis();
    let store = place.open().await;
    use_it(&store, 10).await;
    let Place::Redis(server) = &place else { unreachable!() };
    let sound = stream(server, names::LOG);
    let (mut tried, mut unseen, mut believed) = (0, Vec::new(), Vec::new());
    // The last one stands in the head by its hash, and its number.
    for (what, harm) in &HARMS[..5] {
        for n in [1, sound.len() / 2, sound.len() - 2] {
            let mut rows: Rows = sound.iter().map(|(number, _, event)| (*number, event.clone())).collect();
            harm(&mut rows, n);
            let entries = sound.iter().zip(rows).map(|(entry, (number, event))| (number, entry.1.clone(), event));
            put_stream(server, names::LOG, &entries.collect());
            tried += 1;
            let replica = place.open().await;
            if replica.contradicted().await.unwrap().found == 0 {
                unseen.push(format!("entry {n} {what}"));
            }
            let Store::Redis(redis) = &replica else { unreachable!() };
            // Says of which format it is.
            redis.format().await.unwrap();
            let mut channel = redis.channel().await.unwrap();
            let first = &sound[0];
            let position = Position { sequence: first.0, chain: String::from_utf8(first.1[1].clone()).unwrap() };
            let (_, entries) = ahead(&mut channel, &standing_at(&position)).await;
            let doubted = |entry: &&LogEntry| entry.event == Event { touched: Touched::All, ended: Vec::new() };
            let doubted: Vec<u64> = entries.iter().filter(doubted).map(|entry| entry.position.sequence).collect();
            // The first that is heard of may be a later one: the next one tells.
            if !(n..n + 2).any(|n| doubted.contains(&sound[n].0)) || replica.distrusted_entries() == 0 {
                believed.push(format!("entry {n} {what}: {doubted:?}"));
            }
        }
    }
    put_stream(server, names::LOG, &sound);
    assert_eq!(place.found().await.found, 0);
    println!("entries: {tried} tried, {} unseen, {} believed", unseen.len(), believed.len());
    assert_eq!((unseen, believed), (Vec::<String>::new(), Vec::<String>::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_signatures_is_taken_as_it_is_and_nothing_else() {
    for place in [Place::redis(), Place::file()] {
        let store = place.open().await;
        if let (Place::Redis(server), Store::Redis(redis)) = (&place, &store) {
            server.command::<u64>(&["HSET", names::HEAD, "format", "3"]);
            // More than are read at once.
            for _ in 0..1_200 {
                redis.commit(&[], &Event::touching(&[])).await.unwrap();
            }
        }
        drop(store);
        if let Place::File(path, _) = &place {
            signed::file_says(path, 3);
        }
        let store = place.open().await;
        for n in 0..40 {
            store.apply(vec![Write::CreateKey(key(n)), Write::Audit(row("older"))]).await.unwrap();
        }
        upgrade(&store).await.unwrap();
        use_it(&store, 100).await;
        trim(&store, 10).await;
        let sound = async || assert_eq!(place.found().await.named, Vec::<String>::new());
        drop(store);
        sound().await;
        let rows = place.rows();
        let mut without = rows.clone();
        let newest = without.len() - 1;
        let length = without[newest].1.len() - 39;
        without[newest].1.truncate(length);
        place.put_rows(&without);
        assert_eq!(place.found().await.found, 1, "one that must have a signature");
        place.put_rows(&rows);
        // One that has made itself a place among those that were removed.
        let mut forged = rows.clone();
        forged.insert(0, (3, without[newest].1.clone()));
        place.put_rows(&forged);
        assert_eq!(place.found().await.found, if rows[0].0 > 3 { 0 } else { 1 }, "they needed none");
        place.put_rows(&rows);
        let store = place.open().await;
        trim(&store, 35).await;
        drop(store);
        sound().await;
        let mut forged = place.rows();
        forged.insert(0, (42, without[newest].1.clone()));
        place.put_rows(&forged);
        assert_eq!(place.found().await.found, 1, "among removed ones, too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_has_made_is_carried_nowhere() {
    let signer = Pepper::new(1, Zeroizing::new([7; 32])).snapshot_signer();
    for place in [Place::redis(), Place::file()] {
        use_it(&place.open().await, 10).await;
        let copied = async || match place.open().await {
            Store::Embedded(store) => store.snapshot(Vec::new(), at(9), &signer).map(|_| ()),
            Store::Redis(store) => store.snapshot(Vec::new(), at(9), &signer, |_| {}).await.map(|_| ()),
        };
        copied().await.unwrap();
        let sound = place.rows();
        for (what, harm) in &HARMS[..2] {
            let mut rows = sound.clone();
            harm(&mut rows, 3);
            place.put_rows(&rows);
            let refused = copied().await;
            assert!(
                matches!(&refused, Err(StoreError::Damaged(why)) if why.contains("row 4 of the audit log has")),
                "{what}: {refused:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_begins_anew_where_a_failover_has_lost_the_end_of_what_it_wrote() {
    let place = Place::redis();
    let store = place.open().await;
    let (Place::Redis(server), Store::Redis(redis)) = (&place, &store) else { unreachable!() };
    for n in 0..3 {
        store.apply(vec![Write::CreateKey(key(n)), Write::Audit(row("kept"))]).await.unwrap();
    }
    let (entries, rows) = (stream(server, names::LOG), place.rows());
    redis.commit(&[], &Event::touching(&[])).await.unwrap();
    store.apply(vec![Write::Audit(row("lost"))]).await.unwrap();
    put_stream(server, names::LOG, &entries);
    place.put_rows(&rows);
    let (last, fields, _) = entries.last().unwrap();
    let hash = String::from_utf8(fields[1].clone()).unwrap();
    server.command::<u64>(&["HSET", names::HEAD, "seq", &last.to_string(), "h", &hash]);
    // As a replica does that has lost its connection.
    redis.drop_loads();
    store.apply(vec![Write::CreateKey(key(9)), Write::Audit(row("afterwards"))]).await.unwrap();
    assert_eq!(place.found().await.named, Vec::<String>::new());
    let replica = place.open().await;
    let Store::Redis(redis) = &replica else { unreachable!() };
    redis.format().await.unwrap();
    let first = &entries[0];
    let position = Position { sequence: first.0, chain: String::from_utf8(first.1[1].clone()).unwrap() };
    ahead(&mut redis.channel().await.unwrap(), &standing_at(&position)).await;
    assert_eq!(replica.distrusted_entries(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_before_is_checked_too() {
    let place = Place::file();
    use_it(&place.open().await, 10).await;
    let Place::File(path, _) = &place else { unreachable!() };
    let database = Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(keyspace::REMOVED_ROWS).unwrap());
    write.commit().unwrap();
    drop(database);
    assert_eq!(place.found().await.found, 0);
}
