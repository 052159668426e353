//! Records that somebody puts back at an older version, which is signed as well: where it is seen, and where it cannot be.

use std::path::Path;

use redb::{Database, ReadableTable, TableDefinition};
use tollgate::domain::change::Event;
use tollgate::domain::record::{ApiKey, EndedSession, Project, ProjectState, User};
use tollgate::store::keyspace::{self, redis as names};
use tollgate::store::{Store, Write};
use tollgate_core::resource::Resource;
use tollgate_guard::protocol::Position;

use crate::redis::channel::{ahead, member, resync, standing_at};
use crate::signed;
use crate::support::{Apply, at, id, key, project, resource, row, user};
use crate::tampered::{Place, open_session, stream, trim};

/// A kind of record: its name, and where it stands in Redis or in the file.
#[derive(Clone, Copy, Debug)]
enum Of {
    Key,
    User,
    Project,
    Resource,
    Sessions,
    Gone,
}

const EACH: [Of; 6] = [Of::Key, Of::User, Of::Project, Of::Resource, Of::Sessions, Of::Gone];

impl Of {
    fn name(self) -> String {
        let digest: String = key(1).digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Key => format!("{}{digest}", names::KEYS),
            Self::User => names::user("ann"),
            Self::Project => names::project("acme"),
            Self::Resource | Self::Gone => names::resource("workload", "w"),
            Self::Sessions => format!("{}ann", names::SESSIONS),
        }
    }

    fn value(self, place: &Place) -> Option<Vec<u8>> {
        match place {
            Place::Redis(server) => server.command(&["GET", &self.name()]),
            Place::File(path, _) => in_file(path, self, None),
        }
    }

    fn put_back(self, place: &Place, value: &[u8]) {
        match place {
            Place::Redis(server) => {
                let mut connection = server.client().get_connection().unwrap();
                ::redis::cmd("SET").arg(self.name()).arg(value).exec(&mut connection).unwrap();
            }
            Place::File(path, _) => drop(in_file(path, self, Some(value))),
        }
    }

    /// The change after which somebody puts back what was there before.
    fn later(self) -> Write {
        match self {
            Self::Key => Write::UpdateKey(ApiKey { permissions: Vec::new(), version: 2, ..key(1) }),
            Self::User => Write::UpdateUser(User { permissions: Vec::new(), version: 2, ..user("ann") }),
            Self::Project => Write::PutProject(Project { version: 2, ..project("acme", ProjectState::Suspended) }),
            Self::Resource => Write::UpdateResource(Resource {
                slug: "other".to_owned(),
                version: 2,
                ..resource("workload", "w", "acme")
            }),
            Self::Sessions => Write::EndSession(EndedSession {
                id: "s".to_owned(),
                user: "ann".to_owned(),
                ended_at: at(2),
                expires_at: at(1_000_000_000),
            }),
            Self::Gone => Write::DeleteResource { kind: "workload".to_owned(), id: "w".to_owned(), version: 1 },
        }
    }

    /// Whether a check finds what stands there, and believes it.
    async fn is_found(self, store: &Store) -> bool {
        let (user, session) = ("ann".to_owned(), "s".to_owned());
        match self {
            Self::Key => {
                let loaded = store.load_key(vec![key(1).digest]).await.unwrap();
                loaded.believed().is_ok_and(|found| found.is_some()) && store.key(id(1)).await.is_ok()
            }
            Self::User => {
                let loaded = store.load_session(user.clone(), session).await.unwrap();
                loaded.believed().is_ok_and(|found| found.user.is_some()) && store.user(user).await.is_ok()
            }
            Self::Sessions => {
                let found = store.load_session(user, session).await.unwrap().believed().unwrap();
                assert!(found.user.is_some(), "who can log in");
                found.open
            }
            Self::Project => {
                let loaded = store.load_project("acme".to_owned()).await.unwrap();
                loaded.believed().is_ok_and(|found| found.is_some())
            }
            Self::Resource | Self::Gone => {
                let loaded = store.load_resource("workload".to_owned(), "w".to_owned()).await.unwrap();
                loaded.believed().is_ok_and(|found| found.is_some())
            }
        }
    }
}

/// What stands in a place of a file, where something else may be put.
fn in_file(path: &Path, of: Of, put: Option<&[u8]>) -> Option<Vec<u8>> {
    let database = Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    let found = {
        let text = |table: TableDefinition<'static, &'static str, &'static [u8]>, name: &str| {
            let mut table = write.open_table(table).unwrap();
            let found = table.get(name).unwrap().map(|value| value.value().to_vec());
            if let Some(value) = put {
                table.insert(name, value).unwrap();
            }
            found
        };
        match of {
            Of::User => text(keyspace::USERS, "ann"),
            Of::Project => text(keyspace::PROJECTS, "acme"),
            Of::Sessions => text(keyspace::SESSIONS, "ann"),
            Of::Key => {
                let mut table = write.open_table(keyspace::KEYS).unwrap();
                let found = table.get(&key(1).digest.0).unwrap().map(|value| value.value().to_vec());
                if let Some(value) = put {
                    table.insert(&key(1).digest.0, value).unwrap();
                }
                found
            }
            Of::Resource | Of::Gone => {
                let mut table = write.open_table(keyspace::RESOURCES).unwrap();
                let found = table.get(&b"workload\0w"[..]).unwrap().map(|value| value.value().to_vec());
                if let Some(value) = put {
                    table.insert(&b"workload\0w"[..], value).unwrap();
                }
                found
            }
        }
    };
    write.commit().unwrap();
    found
}

/// Who tells of the newer version when somebody puts the older one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Replica,
    Log,
    Rows,
    Nobody,
}

/// Whether it was refused, or named.
async fn is_seen(place: &Place, of: Of, told: Told) -> bool {
    let store = place.open().await;
    let made = vec![
        Write::PutProject(project("acme", ProjectState::Active)),
        Write::CreateKey(key(1)),
        Write::CreateUser(user("ann")),
        Write::BeginSession { user: "ann".to_owned(), session: open_session("s") },
        Write::BeginSession { user: "ann".to_owned(), session: open_session("t") },
        Write::CreateResource(resource("workload", "w", "acme")),
        Write::Audit(row("made")),
    ];
    store.apply(made).await.unwrap();
    if matches!(place, Place::File(..)) {
        drop(store);
        let older = of.value(place).unwrap();
        place.open().await.apply(vec![of.later(), Write::Audit(row("later"))]).await.unwrap();
        if told == Told::Nobody {
            forget_rows(&place.open().await).await;
        }
        of.put_back(place, &older);
        return place.found().await.found > 0;
    }
    let older = of.value(place).unwrap();
    store.apply(vec![of.later(), Write::Audit(row("later"))]).await.unwrap();
    let Store::Redis(redis) = &store else { unreachable!() };
    if told == Told::Replica {
        let Place::Redis(server) = place else { unreachable!() };
        let first = stream(server, names::LOG).swap_remove(0);
        let chain = String::from_utf8(first.1[1].clone()).unwrap();
        let position = Position { sequence: first.0, chain };
        let mut channel = redis.channel().await.unwrap();
        ahead(&mut channel, &standing_at(&position)).await;
        assert_eq!(of.is_found(&store).await, !matches!(of, Of::Sessions | Of::Gone));
        of.put_back(place, &older);
        return !of.is_found(&store).await;
    }
    if told != Told::Log {
        // The log has gone on.
        let short = signed::redis(redis.connector().clone()).with_log_length(1);
        for _ in 0..300 {
            short.commit(&[], &Event::touching(&[])).await.unwrap();
        }
    }
    if told == Told::Nobody {
        forget_rows(&store).await;
    }
    of.put_back(place, &older);
    place.found().await.found > 0
}

async fn forget_rows(store: &Store) {
    store.apply(vec![Write::Audit(row("one more"))]).await.unwrap();
    trim(store, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_records_that_are_put_back_are_seen_where_something_tells_of_the_newer_ones() {
    let mut table = Vec::new();
    for told in [Told::Replica, Told::Log, Told::Rows, Told::Nobody] {
        for of in EACH {
            let (mut seen, mut unseen) = (Vec::new(), Vec::new());
            let places = if matches!(told, Told::Replica | Told::Log) {
                vec![Place::redis()]
            } else {
                vec![Place::redis(), Place::file()]
            };
            for place in places {
                let where_it_is = if matches!(place, Place::File(..)) { "file" } else { "redis" };
                if is_seen(&place, of, told).await { &mut seen } else { &mut unseen }.push(where_it_is);
            }
            println!("{told:?} {of:?}: seen {seen:?}, cannot be seen {unseen:?}");
            table.push((told, of, seen.len(), unseen.len()));
        }
    }
    for (told, of, seen, unseen) in table {
        let can_be_seen = match told {
            Told::Replica | Told::Log => true,
            // What has no version is written without a row, too.
            Told::Rows => !matches!(of, Of::Sessions),
            Told::Nobody => false,
        };
        assert_eq!((seen == 0, unseen == 0), (!can_be_seen, can_be_seen), "{told:?} {of:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_in_the_place_of_something_removed_is_found_by_a_replica_that_heard_of_it() {
    let place = Place::redis();
    let store = place.open().await;
    let Store::Redis(redis) = &store else { unreachable!() };
    store.apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    let mut channel = redis.channel().await.unwrap();
    let head = resync(&mut channel, &member("a").position).await;
    // What is changed again and again is the newest each time.
    for version in 2..9 {
        let again = ApiKey { name: version.to_string(), version, ..key(1) };
        store.apply(vec![Write::UpdateKey(again)]).await.unwrap();
        ahead(&mut channel, &standing_at(&head.position)).await;
        assert!(store.load_key(vec![key(1).digest]).await.unwrap().found.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_sessions_that_somebody_has_destroyed_keeps_nobody_out() {
    let place = Place::redis();
    let store = place.open().await;
    let Place::Redis(server) = &place else { unreachable!() };
    let begin = async |id: &str| {
        store.apply(vec![Write::BeginSession { user: "ann".to_owned(), session: open_session(id) }]).await.unwrap();
        store.load_session("ann".to_owned(), id.to_owned()).await.unwrap().found.open
    };
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    assert!(begin("s").await);
    server.command::<()>(&["SET", &Of::Sessions.name(), "junk"]);
    let found = store.load_session("ann".to_owned(), "s".to_owned()).await.unwrap().found;
    assert!(found.user.is_some() && !found.open, "the user is there, and the session is over");
    assert!(begin("t").await, "it is begun anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stands_again_where_it_stood_before_is_named() {
    for place in [Place::redis(), Place::file()] {
        let store = place.open().await;
        store.apply(vec![Write::CreateKey(key(1)), Write::Audit(row("made"))]).await.unwrap();
        drop(store);
        let older = Of::Key.value(&place).unwrap();
        let store = place.open().await;
        let moved = ApiKey { digest: key(2).digest, version: 2, ..key(1) };
        store.apply(vec![Write::UpdateKey(moved), Write::Audit(row("moved"))]).await.unwrap();
        drop(store);
        assert_eq!(place.found().await.found, 0);
        Of::Key.put_back(&place, &older);
        let found = place.found().await;
        assert!(found.found == 1 && found.named[0].contains("an older one was put back"), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_is_on_no_list_again_because_somebody_logs_in() {
    let place = Place::redis();
    let store = place.open().await;
    let (Place::Redis(server), Store::Redis(redis)) = (&place, &store) else { unreachable!() };
    let begin = |id: &str| vec![Write::BeginSession { user: "ann".to_owned(), session: open_session(id) }];
    store.apply(begin("s")).await.unwrap();
    let older = Of::Sessions.value(&place).unwrap();
    store.apply(vec![Of::Sessions.later()]).await.unwrap();
    let first = stream(server, names::LOG).swap_remove(0);
    let position = Position { sequence: first.0, chain: String::from_utf8(first.1[1].clone()).unwrap() };
    let (head, _) = ahead(&mut redis.channel().await.unwrap(), &standing_at(&position)).await;
    assert!(head.position.sequence > first.0);
    Of::Sessions.put_back(&place, &older);
    server.command::<u64>(&["DEL", &names::ended_session("s")]);
    store.apply(begin("t")).await.unwrap();
    let is_open =
        async |store: &Store, id: &str| store.load_session("ann".to_owned(), id.to_owned()).await.unwrap().found.open;
    let newcomer = place.open().await;
    assert!(!is_open(&newcomer, "s").await && is_open(&newcomer, "t").await);
}
