//! Records that somebody writes into a store who has no pepper: made, widened, moved, put in the place of others, or changed by a bit.
//! None of them is believed, and each is named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;
use tollgate::domain::record::{OpenSession, ProjectState, SigningKey};
use tollgate::store::keyspace::{self, redis as names};
use tollgate::store::redis::connect::Connector;
use tollgate::store::{KeyQuery, Store, StoreError, Write};

use crate::servers::Server;
use crate::signed;
use crate::support::{Apply, at, id, key, project, resource, user};

/// Of a signature: its field, the version of the pepper, and the MAC.
const SIGNATURE: usize = 3 + 4 + 32;
/// Of whoever owns the store, and of whoever does not.
const OURS: u8 = 7;
const THEIRS: u8 = 9;
/// Records of each kind, and how many more somebody makes.
const EACH: u64 = 24;
const MORE: u64 = 6;

/// What stands in a store, by its table and place.
type Image = BTreeMap<At, Vec<u8>>;
type At = (&'static str, Vec<u8>);
/// What is written in place of a value.
type Forge<'f> = dyn Fn(&At, &[u8]) -> Vec<u8> + 'f;

enum Place {
    /// And the folder that it stands in.
    File(PathBuf, #[allow(dead_code, reason = "it is removed with this")] TempDir),
    Redis(Server),
}

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Text = TableDefinition<'static, &'static str, &'static [u8]>;
const TEXTS: [(&str, Text); 4] = [
    ("users", keyspace::USERS),
    ("projects", keyspace::PROJECTS),
    ("signing_keys", keyspace::SIGNING_KEYS),
    ("sessions", keyspace::SESSIONS),
];
const BYTES: [(&str, Bytes); 1] = [("resources", keyspace::RESOURCES)];
const PREFIXES: [(&str, &str); 6] = [
    ("keys", names::KEYS),
    ("users", names::USERS),
    ("projects", names::PROJECTS),
    ("signing_keys", names::SIGNING_KEYS),
    ("sessions", names::SESSIONS),
    ("resources", names::RESOURCES),
];

impl Place {
    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::File(folder.path().join("store.redb"), folder)
    }

    fn redis() -> Self {
        Self::Redis(Server::start())
    }

    async fn store(&self, signers: u8) -> Store {
        let store = match self {
            Self::File(path, _) => Store::Embedded(Arc::new(signed::embedded(path, Duration::from_secs(9)).unwrap())),
            Self::Redis(server) => {
                let redis = signed::redis(Connector::single(&server.address()).unwrap());
                redis.init().await.unwrap();
                Store::Redis(Arc::new(redis))
            }
        };
        store.set_signers(signed::signers_of(signers));
        store
    }

    fn image(&self) -> Image {
        let mut image = Image::new();
        match self {
            Self::File(path, _) => {
                let database = Database::open(path).unwrap();
                let read = database.begin_read().unwrap();
                for (name, table) in TEXTS {
                    for entry in read.open_table(table).unwrap().iter().unwrap() {
                        let (place, value) = entry.unwrap();
                        image.insert((name, place.value().as_bytes().to_vec()), value.value().to_vec());
                    }
                }
                for (name, table) in BYTES {
                    for entry in read.open_table(table).unwrap().iter().unwrap() {
                        let (place, value) = entry.unwrap();
                        image.insert((name, place.value().to_vec()), value.value().to_vec());
                    }
                }
                for entry in read.open_table(keyspace::KEYS).unwrap().iter().unwrap() {
                    let (place, value) = entry.unwrap();
                    image.insert(("keys", place.value().to_vec()), value.value().to_vec());
                }
            }
            Self::Redis(server) => {
                for (name, prefix) in PREFIXES {
                    let found: Vec<String> = server.command(&["KEYS", &format!("{prefix}*")]);
                    for full in found {
                        let value: Vec<u8> = server.command(&["GET", &full]);
                        image.insert((name, full.as_bytes()[prefix.len()..].to_vec()), value);
                    }
                }
            }
        }
        image
    }

    /// Writes what stands in places, past every rule.
    fn write(&self, image: &Image, gone: &[(&'static str, Vec<u8>)]) {
        match self {
            Self::File(path, _) => {
                let database = Database::open(path).unwrap();
                let transaction = database.begin_write().unwrap();
                for ((table, place), value) in image {
                    let text = || std::str::from_utf8(place).unwrap();
                    if let Some((_, table)) = TEXTS.iter().find(|(name, _)| name == table) {
                        transaction.open_table(*table).unwrap().insert(text(), &**value).unwrap();
                    } else if let Some((_, table)) = BYTES.iter().find(|(name, _)| name == table) {
                        transaction.open_table(*table).unwrap().insert(&**place, &**value).unwrap();
                    } else {
                        let place: &[u8; 32] = place.as_slice().try_into().unwrap();
                        transaction.open_table(keyspace::KEYS).unwrap().insert(place, &**value).unwrap();
                    }
                }
                for (table, place) in gone {
                    if let Some((_, table)) = TEXTS.iter().find(|(name, _)| name == table) {
                        transaction.open_table(*table).unwrap().remove(std::str::from_utf8(place).unwrap()).unwrap();
                    } else if let Some((_, table)) = BYTES.iter().find(|(name, _)| name == table) {
                        transaction.open_table(*table).unwrap().remove(&**place).unwrap();
                    } else {
                        let place: &[u8; 32] = place.as_slice().try_into().unwrap();
                        transaction.open_table(keyspace::KEYS).unwrap().remove(place).unwrap();
                    }
                }
                transaction.commit().unwrap();
            }
            Self::Redis(server) => {
                let name = |(table, place): &(&str, Vec<u8>)| {
                    let prefix = PREFIXES.iter().find(|(name, _)| name == table).unwrap().1;
                    [prefix.as_bytes(), place].concat()
                };
                let mut connection =
                    ::redis::Client::open(format!("redis://{}", server.address())).unwrap().get_connection().unwrap();
                for (at, value) in image {
                    ::redis::cmd("SET").arg(name(at)).arg(value).exec(&mut connection).unwrap();
                }
                for at in gone {
                    ::redis::cmd("DEL").arg(name(at)).exec(&mut connection).unwrap();
                }
            }
        }
    }
}

/// Fills a store, with more rights and more records if they are `wide`.
async fn fill(store: &Store, wide: bool) {
    let (count, right) = if wide { (EACH + MORE, "admin") } else { (EACH, "run_inference") };
    let state = if wide { ProjectState::Active } else { ProjectState::Suspended };
    for n in 0..count {
        let mut key = key(n);
        key.permissions = vec![right.to_owned()];
        let mut user = user(&format!("user{n}"));
        user.permissions = vec![right.to_owned()];
        let session = OpenSession {
            id: format!("s{n}"),
            generation: if wide { 9 } else { 1 },
            began_at: at(1),
            expires_at: at(1_000_000),
            address: None,
        };
        let signing = SigningKey { id: format!("signing{n}"), sealed: vec![u8::from(wide); 80], created_at: at(1) };
        let batch = vec![
            Write::PutProject(project(&format!("project{n}"), state)),
            Write::CreateKey(key),
            Write::CreateUser(user.clone()),
            Write::BeginSession { user: user.name, session },
            Write::CreateResource(resource("run", &format!("r{n}"), if wide { "evil" } else { "acme" })),
            Write::CreateSigningKey(signing),
        ];
        store.apply(batch).await.unwrap();
    }
}

/// Which records are believed, of those that anybody could have made.
async fn believed(store: &Store) -> Vec<String> {
    let mut believed = Vec::new();
    let mut note = |what: String, is_believed: bool| {
        if is_believed {
            believed.push(what);
        }
    };
    for n in 0..EACH + MORE {
        let (digest, name, run) = (key(n).digest, format!("user{n}"), format!("r{n}"));
        let loaded = store.load_key(vec![digest]).await;
        note(format!("key {n}"), loaded.is_ok_and(|loaded| loaded.found.is_some()));
        let listed: Result<Option<_>, StoreError> = store.key(id(n)).await;
        note(format!("listed key {n}"), matches!(listed, Ok(Some(_))));
        let loaded = store.load_session(name.clone(), "none".to_owned()).await;
        note(format!("user {n}"), loaded.is_ok_and(|loaded| loaded.found.user.is_some()));
        note(format!("login {n}"), matches!(store.user(name.clone()).await, Ok(Some(_))));
        note(format!("sessions {n}"), store.sessions(name).await.is_ok_and(|open| !open.is_empty()));
        let loaded = store.load_resource("run".to_owned(), run).await;
        note(format!("resource {n}"), loaded.is_ok_and(|loaded| loaded.found.is_some()));
        let loaded = store.load_project(format!("project{n}")).await;
        note(format!("project {n}"), loaded.is_ok_and(|loaded| loaded.found.is_some()));
    }
    note("signing keys".to_owned(), store.signing_keys().await.is_ok_and(|keys| !keys.is_empty()));
    believed
}

/// Values that each have something wrong with them, by the places that they are written to.
fn forgeries(ours: &Image, theirs: &Image) -> Vec<(&'static str, Image)> {
    let cut = |value: &[u8]| value[..value.len() - SIGNATURE].to_vec();
    let any = ours.values().next().unwrap();
    let graft = |at: &(&'static str, Vec<u8>), value: &[u8]| {
        let signature = ours.get(at).unwrap_or(any);
        [&*cut(value), &signature[signature.len() - SIGNATURE..]].concat()
    };
    let map = |image: &Image, forge: &Forge<'_>| -> Image {
        image.iter().map(|(at, value)| (at.clone(), forge(at, value))).collect()
    };
    let places: Vec<&(&str, Vec<u8>)> = ours.keys().collect();
    // Each has what stood behind it.
    let swapped = places.iter().enumerate().filter_map(|(n, at)| {
        let first = places.iter().find(|first| first.0 == at.0)?;
        let next = places.get(n + 1).filter(|next| next.0 == at.0).unwrap_or(first);
        Some(((*at).clone(), ours[*next].clone()))
    });
    vec![
        ("made with another pepper", theirs.clone()),
        ("without a signature", map(theirs, &|_, value| cut(value))),
        ("with the signature of another", map(theirs, &graft)),
        ("in the place of another", swapped.collect()),
        (
            "changed by a bit",
            map(ours, &|at, value| {
                let mut value = value.to_vec();
                let end = value.len();
                value[end - 1 - at.1.len() % SIGNATURE] ^= 1;
                value
            }),
        ),
        ("ours without a signature", map(ours, &|_, value| cut(value))),
    ]
}

async fn nothing_is_believed(ours: Place, theirs: Place) {
    let store = ours.store(OURS).await;
    fill(&store, false).await;
    assert_eq!(believed(&store).await.len() as u64, EACH * 7 + 1, "what we have made is believed");
    assert_eq!(store.distrusted().await.unwrap().found, 0);
    drop(store);
    let store = theirs.store(THEIRS).await;
    fill(&store, true).await;
    drop(store);
    let (right, wrong) = (ours.image(), theirs.image());
    let (mut tried, mut let_through) = (0, Vec::new());
    for (what, forged) in forgeries(&right, &wrong) {
        ours.write(&forged, &[]);
        let store = ours.store(OURS).await;
        // What was not touched is still ours.
        let untouched = right.keys().filter(|at| !forged.contains_key(at)).count() as u64;
        let found = store.distrusted().await.unwrap();
        assert_eq!(found.found, forged.len() as u64, "{what}: each is found");
        assert_eq!(found.named.len() as u64, found.found, "{what}: each is named");
        let found = believed(&store).await;
        if untouched == 0 {
            let_through.extend(found.into_iter().map(|name| format!("{what}: {name}")));
            assert!(store.keys(KeyQuery { limit: 100, ..KeyQuery::default() }).await.is_err(), "{what}");
        }
        tried += forged.len();
        drop(store);
        let gone: Vec<_> = forged.keys().filter(|at| !right.contains_key(at)).cloned().collect();
        ours.write(&right, &gone);
    }
    println!("forged records: {tried} tried, {} let through", let_through.len());
    assert!(tried > 500 && let_through.is_empty(), "{tried} tried: {let_through:?}");
    let store = ours.store(OURS).await;
    assert_eq!(store.distrusted().await.unwrap().found, 0, "what was put back is ours again");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_others_write_into_a_file_is_believed() {
    nothing_is_believed(Place::file(), Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_others_write_into_redis_is_believed() {
    nothing_is_believed(Place::redis(), Place::redis()).await;
}
