//! What every backend must do with users, sessions and the keys that sign them.

use tollgate::domain::record::{EndedSession, OpenSession, SigningKey, User, UserSessions};
use tollgate::store::{Store, UserQuery, Write};

use super::assert_conflict;
use crate::support::{Apply, at, user};

const DAY: u64 = 24 * 3600 * 1000;

fn of_project(name: &str, project: &str) -> User {
    User { project: project.to_owned(), ..user(name) }
}

fn next(user: &User) -> User {
    User { version: user.version + 1, ..user.clone() }
}

fn deleted(user: &User) -> User {
    User { deleted: true, sessions: user.sessions + 1, password_hash: String::new(), ..next(user) }
}

async fn create(store: &Store, users: impl IntoIterator<Item = User>) {
    store.apply(users.into_iter().map(Write::CreateUser).collect()).await.unwrap();
}

async fn find(store: &Store, name: &str) -> Option<User> {
    store.user(name.to_owned()).await.unwrap()
}

async fn list(store: &Store, project: &str, after: &str, limit: usize) -> Vec<String> {
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let query = UserQuery { project: named(project), after: named(after), limit };
    store.users(query).await.unwrap().into_iter().map(|user| user.name).collect()
}

async fn a_user_is_read_as_written(store: Store) {
    assert_eq!(find(&store, "ann").await, None);
    let full = User { disabled: true, sessions: 7, permissions: vec!["a".to_owned(), "b".to_owned()], ..user("ann") };
    let bare = User { permissions: vec![], password_hash: String::new(), ..user("bob@example.com") };
    create(&store, [full.clone(), bare.clone()]).await;
    assert_eq!(find(&store, "ann").await, Some(full));
    assert_eq!(find(&store, "bob@example.com").await, Some(bare));
    assert_eq!(find(&store, "Ann").await, None);
    assert_eq!(find(&store, "an").await, None);
}

async fn a_name_is_taken_once(store: Store) {
    create(&store, [user("ann")]).await;
    assert_conflict(&store.apply(vec![Write::CreateUser(of_project("ann", "beta"))]).await);
    store.apply(vec![Write::UpdateUser(deleted(&user("ann")))]).await.unwrap();
    assert_conflict(&store.apply(vec![Write::CreateUser(user("ann"))]).await);
}

async fn a_user_is_changed_by_who_saw_it(store: Store) {
    create(&store, [user("ann")]).await;
    for version in [0, 1, 3] {
        assert_conflict(&store.apply(vec![Write::UpdateUser(User { version, ..user("ann") })]).await);
    }
    assert_conflict(&store.apply(vec![Write::UpdateUser(next(&user("bob")))]).await);
    let changed = User { disabled: true, sessions: 2, ..next(&user("ann")) };
    store.apply(vec![Write::UpdateUser(changed.clone())]).await.unwrap();
    assert_eq!(find(&store, "ann").await, Some(changed.clone()));
    let reopened = User { sessions: 1, ..next(&changed) };
    assert_conflict(&store.apply(vec![Write::UpdateUser(reopened)]).await);
    assert_eq!(find(&store, "ann").await, Some(changed), "a conflict changes nothing");
}

async fn a_deleted_user_comes_back_without_old_sessions(store: Store) {
    create(&store, [user("ann")]).await;
    let gone = deleted(&user("ann"));
    store.apply(vec![Write::UpdateUser(gone.clone())]).await.unwrap();
    assert_eq!(find(&store, "ann").await.as_ref(), Some(&gone));
    assert!(list(&store, "", "", 9).await.is_empty());
    assert!(list(&store, "acme", "", 9).await.is_empty());

    let same_sessions = User { deleted: false, ..next(&gone) };
    assert_conflict(&store.apply(vec![Write::UpdateUser(same_sessions.clone())]).await);
    let again = User { sessions: gone.sessions + 1, project: "beta".to_owned(), ..same_sessions };
    store.apply(vec![Write::UpdateUser(again.clone())]).await.unwrap();
    assert_eq!(find(&store, "ann").await, Some(again));
    assert_eq!(list(&store, "beta", "", 9).await, ["ann"]);
    assert!(list(&store, "acme", "", 9).await.is_empty());
}

async fn users_are_listed_by_name_in_pages(store: Store) {
    let names = ["dora", "ann", "carl", "bob", "eve"];
    create(&store, names.map(|name| of_project(name, if name == "carl" { "beta" } else { "acme" }))).await;
    create(&store, [of_project("zoe", "*"), of_project("alf", "acme-2")]).await;
    assert_eq!(list(&store, "", "", 9).await, ["alf", "ann", "bob", "carl", "dora", "eve", "zoe"]);
    assert_eq!(list(&store, "", "", 2).await, ["alf", "ann"]);
    assert_eq!(list(&store, "", "ann", 2).await, ["bob", "carl"]);
    assert_eq!(list(&store, "acme", "", 9).await, ["ann", "bob", "dora", "eve"]);
    assert_eq!(list(&store, "acme", "ann", 2).await, ["bob", "dora"]);
    assert_eq!(list(&store, "acme", "bobby", 1).await, ["dora"]);
    assert_eq!(list(&store, "*", "", 9).await, ["zoe"]);
    for (project, limit) in [("acm", 9), ("acme\0", 9), ("acme", 0), ("", 0)] {
        assert!(list(&store, project, "", limit).await.is_empty(), "{project:?} {limit}");
    }
    // Deleted ones take no place on a page, and who moves leaves the old list.
    store.apply(vec![Write::UpdateUser(deleted(&user("bob")))]).await.unwrap();
    store.apply(vec![Write::UpdateUser(User { project: "beta".to_owned(), ..next(&user("dora")) })]).await.unwrap();
    assert_eq!(list(&store, "", "", 3).await, ["alf", "ann", "carl"]);
    assert_eq!(list(&store, "acme", "", 9).await, ["ann", "eve"]);
    assert_eq!(list(&store, "beta", "", 9).await, ["carl", "dora"]);
}

async fn of_plain_name(store: &Store, plain: &str, limit: usize) -> Vec<String> {
    store.users_of_plain_name(plain.to_owned(), limit).await.unwrap().into_iter().map(|user| user.name).collect()
}

async fn a_name_is_taken_once_in_each_project(store: Store) {
    create(&store, [of_project("acme/ann", "acme"), of_project("beta/ann", "beta"), of_project("beta/an", "beta")])
        .await;
    create(&store, [of_project("ann", "*"), of_project("bob", "acme")]).await;
    assert_eq!(of_plain_name(&store, "ann", 9).await, ["acme/ann", "beta/ann"]);
    assert_eq!(of_plain_name(&store, "ann", 1).await, ["acme/ann"]);
    for none in ["bob", "a", "annn", "acme/ann", "an\0n"] {
        assert_eq!(of_plain_name(&store, none, 9).await, [""; 0], "{none}");
    }
    assert_conflict(&store.apply(vec![Write::CreateUser(of_project("acme/bob", "acme"))]).await);
    assert_conflict(&store.apply(vec![Write::CreateUser(of_project("acme/ann", "acme"))]).await);
    create(&store, [of_project("beta/bob", "beta")]).await;
    let moved = User { project: "beta".to_owned(), ..next(&of_project("bob", "acme")) };
    assert_conflict(&store.apply(vec![Write::UpdateUser(moved.clone())]).await);
    // A deleted one has no name, and one who comes back must not find it taken.
    store.apply(vec![Write::UpdateUser(deleted(&of_project("beta/bob", "beta")))]).await.unwrap();
    assert_eq!(of_plain_name(&store, "bob", 9).await, [""; 0]);
    store.apply(vec![Write::UpdateUser(moved)]).await.unwrap();
    let back = User { version: 3, sessions: 9, ..of_project("beta/bob", "beta") };
    assert_conflict(&store.apply(vec![Write::UpdateUser(back)]).await);
    store.apply(vec![Write::UpdateUser(deleted(&of_project("acme/ann", "acme")))]).await.unwrap();
    assert_eq!(of_plain_name(&store, "ann", 9).await, ["beta/ann"]);
}

fn session(id: &str, ended_at: u64, expires_at: u64) -> EndedSession {
    EndedSession { id: id.to_owned(), user: "ann".to_owned(), ended_at: at(ended_at), expires_at: at(expires_at) }
}

async fn end(store: &Store, session: EndedSession) {
    store.apply(vec![Write::EndSession(session)]).await.unwrap();
}

async fn is_ended(store: &Store, id: &str) -> bool {
    store.ended_session(id.to_owned()).await.unwrap()
}

async fn an_ended_session_stays_ended(store: Store) {
    assert!(!is_ended(&store, "s-1").await);
    end(&store, session("s-1", 10, 1000)).await;
    end(&store, session("s-1", 20, 5)).await;
    assert!(is_ended(&store, "s-1").await);
    assert!(!is_ended(&store, "s-").await);
    assert!(!is_ended(&store, "s-10").await);
    // The second end came with an earlier expiry, and the first one counts.
    end(&store, session("s-2", DAY + 999, DAY + 2000)).await;
    assert!(is_ended(&store, "s-1").await);
}

async fn ended_sessions_are_forgotten_a_day_after_their_tokens(store: Store) {
    for n in 0..20 {
        end(&store, session(&format!("s-{n:02}"), 1, 1000 + n)).await;
    }
    let remembered = async || {
        let mut count = 0;
        for n in 0..20 {
            count += usize::from(is_ended(&store, &format!("s-{n:02}")).await);
        }
        count
    };
    end(&store, session("a", DAY + 1000, 9 * DAY)).await;
    assert_eq!(remembered().await, 20, "the oldest token expired a day ago, and not before");
    end(&store, session("b", DAY + 1001, 9 * DAY)).await;
    assert_eq!(remembered().await, 19);
    assert!(!is_ended(&store, "s-00").await);
    let mut last = 19;
    for n in 0.. {
        end(&store, session(&format!("c-{n}"), DAY + 5000, 9 * DAY)).await;
        let now = remembered().await;
        assert!(now + 8 >= last, "one write forgets only a few");
        last = now;
        if now == 0 {
            break;
        }
        assert!(n < 20, "they are never forgotten");
    }
    for id in ["a", "b", "c-0"] {
        assert!(is_ended(&store, id).await, "{id}");
    }
}

fn open(id: &str, began_at: u64, expires_at: u64) -> OpenSession {
    let (began_at, expires_at) = (at(began_at), at(expires_at));
    OpenSession { id: id.to_owned(), generation: 3, began_at, expires_at, address: Some("192.0.2.1".to_owned()) }
}

async fn begin(store: &Store, user: &str, session: &OpenSession) {
    store.apply(vec![Write::BeginSession { user: user.to_owned(), session: session.clone() }]).await.unwrap();
}

async fn going_on(store: &Store, user: &str) -> Vec<OpenSession> {
    store.sessions(user.to_owned()).await.unwrap()
}

async fn a_session_is_listed_until_it_ends(store: Store) {
    assert_eq!(going_on(&store, "ann").await, []);
    let [one, two] = [open("s-1", 10, DAY), open("s-2", 20, DAY)];
    let bare = OpenSession { address: None, ..open("s-3", 20, DAY) };
    begin(&store, "ann", &one).await;
    begin(&store, "ann", &two).await;
    begin(&store, "ann@example.com", &bare).await;
    assert_eq!(going_on(&store, "ann").await, [one, two.clone()]);
    assert_eq!(going_on(&store, "ann@example.com").await, [bare]);
    assert_eq!(going_on(&store, "an").await, []);
    // With its end, whoever ends it, and not with that of another one.
    for id in ["s-1", "s-1", "s-3"] {
        end(&store, session(id, 30, DAY)).await;
        assert_eq!(going_on(&store, "ann").await, std::slice::from_ref(&two));
    }
    end(&store, session("s-2", 30, DAY)).await;
    assert_eq!(going_on(&store, "ann").await, []);
    begin(&store, "ann", &open("s-4", 40, DAY)).await;
    assert_eq!(going_on(&store, "ann").await, [open("s-4", 40, DAY)]);
}

async fn a_check_is_told_whether_a_session_goes_on(store: Store) {
    let told = async |id: &str| {
        let found = store.load_session("ann".to_owned(), id.to_owned()).await.unwrap().found;
        (found.open, found.ended)
    };
    assert_eq!(told("s-1").await, (false, false));
    begin(&store, "ann", &open("s-1", 10, DAY)).await;
    begin(&store, "bob", &open("s-2", 10, DAY)).await;
    assert_eq!((told("s-1").await, told("s-2").await), ((true, false), (false, false)), "each of its user");
    end(&store, session("s-1", 30, DAY)).await;
    assert_eq!(told("s-1").await, (false, true));
}

async fn sessions_that_are_over_make_room(store: Store) {
    for n in 0..UserSessions::MOST as u64 {
        begin(&store, "ann", &open(&format!("s-{n}"), 10 + n, DAY + n)).await;
    }
    assert_eq!(going_on(&store, "ann").await.len(), UserSessions::MOST);
    // None goes on that is not listed: whoever comes waits until one of them has ended.
    let more = Write::BeginSession { user: "ann".to_owned(), session: open("more", 1_000, 2 * DAY) };
    assert_conflict(&store.apply(vec![more.clone()]).await);
    let end = EndedSession { id: "s-0".to_owned(), user: "ann".to_owned(), ended_at: at(1_000), expires_at: at(DAY) };
    store.apply(vec![Write::EndSession(end), more]).await.unwrap();
    let now = going_on(&store, "ann").await;
    assert_eq!((now.len(), &*now[0].id, &*now[UserSessions::MOST - 1].id), (UserSessions::MOST, "s-1", "more"));
    begin(&store, "ann", &open("later", DAY + 3, 2 * DAY)).await;
    let now = going_on(&store, "ann").await;
    assert_eq!((now.len(), &*now[0].id), (UserSessions::MOST - 2, "s-4"), "a token that expires now has expired");
}

async fn users_whose_sessions_are_over_are_forgotten(store: Store) {
    for n in 0..20 {
        begin(&store, &format!("u-{n}"), &open(&format!("s-{n}"), 10, 1_000)).await;
    }
    let remembered = async || {
        let mut count = 0;
        for n in 0..20 {
            count += going_on(&store, &format!("u-{n}")).await.len();
        }
        count
    };
    begin(&store, "bob", &open("a", DAY + 1_000, 9 * DAY)).await;
    assert_eq!(remembered().await, 20, "a day after the token, and not before");
    for n in 0..3 {
        begin(&store, "bob", &open(&format!("b-{n}"), DAY + 1_001, 9 * DAY)).await;
    }
    assert_eq!((remembered().await, going_on(&store, "bob").await.len()), (0, 4));
}

async fn signing_keys_come_and_go(store: Store) {
    let key = |id: &str, created: u64| SigningKey { id: id.to_owned(), sealed: vec![1, 2, 3], created_at: at(created) };
    assert!(store.signing_keys().await.unwrap().is_empty());
    for key in [key("a", 30), key("c", 10), key("b", 20)] {
        store.apply(vec![Write::CreateSigningKey(key)]).await.unwrap();
    }
    assert_eq!(store.signing_keys().await.unwrap(), [key("c", 10), key("b", 20), key("a", 30)]);
    assert_conflict(&store.apply(vec![Write::CreateSigningKey(key("b", 99))]).await);
    let delete = |id: &str| vec![Write::DeleteSigningKey { id: id.to_owned() }];
    store.apply(delete("c")).await.unwrap();
    assert_conflict(&store.apply(delete("c")).await);
    assert_eq!(store.signing_keys().await.unwrap(), [key("b", 20), key("a", 30)]);
}

for_every_backend!(
    a_user_is_read_as_written,
    a_name_is_taken_once,
    a_user_is_changed_by_who_saw_it,
    a_deleted_user_comes_back_without_old_sessions,
    users_are_listed_by_name_in_pages,
    a_name_is_taken_once_in_each_project,
    an_ended_session_stays_ended,
    a_check_is_told_whether_a_session_goes_on,
    a_session_is_listed_until_it_ends,
    sessions_that_are_over_make_room,
    signing_keys_come_and_go,
);

mod forgetting {
    use super::{ended_sessions_are_forgotten_a_day_after_their_tokens, users_whose_sessions_are_over_are_forgotten};

    for_every_file!(ended_sessions_are_forgotten_a_day_after_their_tokens, users_whose_sessions_are_over_are_forgotten);
}
