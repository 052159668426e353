//! Names of users in several projects: whom one means, and that nobody learns which names others have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tollgate::domain::record::{Outcome, User};
use tollgate::registry::{Actor, Expected, RegistryError, UserChange, whoever_logs_in};
use tollgate::store::Store;
use tollgate::store::{UserQuery, Write};

use crate::redis_server::RedisServer;
use crate::registry_fixture::{RegistryFixture, actor};
use crate::signed;
use crate::support::{Apply, in_redis, user};

const RUN: [&str; 1] = ["run"];

fn boss(project: &str) -> Actor {
    actor("boss", project, &["manage_users", "run"])
}

/// One who was made before names of projects were told apart.
async fn older(fixture: &RegistryFixture, name: &str, project: &str) {
    let user = User { project: project.to_owned(), ..user(name) };
    fixture.store.apply(vec![Write::CreateUser(user)]).await.unwrap();
}

fn looked_at(fixture: &RegistryFixture) -> u64 {
    match &fixture.store {
        Store::Embedded(store) => store.looked_at(),
        Store::Redis(_) => 0,
    }
}

async fn logs_in(fixture: &RegistryFixture, name: &str) -> Option<String> {
    whoever_logs_in(&fixture.store, name).await.unwrap().map(|found| found.user.unwrap().name)
}

const ELSEWHERE: [&str; 5] = ["nowhere", "named", "older", "of every project", "deleted"];

/// Takes the name `ann` where beta is not, or nowhere.
async fn take_ann(fixture: &RegistryFixture, elsewhere: &str) {
    match elsewhere {
        "named" => drop(fixture.user("ann", "acme", &RUN).await),
        "older" => older(fixture, "ann", "acme").await,
        "of every project" => drop(fixture.user("ann", "*", &RUN).await),
        "deleted" => {
            older(fixture, "ann", "acme").await;
            fixture.registry.delete_user(&Actor::operator(), "ann", Expected::Any).await.unwrap();
        }
        _ => {}
    }
}

/// How often a server has done what, but for telling that.
async fn commands(server: &RedisServer) -> BTreeMap<String, u64> {
    let stats: String = server.send("INFO commandstats").await;
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        // Whether a record is as it was seen is asked with one of two commands.
        let name = if name == "exists" { "get" } else { name };
        let is_asked_here = ["info", "client|setinfo", "hello"].contains(&name);
        (!is_asked_here).then_some((name.to_owned(), rest.split(',').next()?.parse::<u64>().ok()?))
    };
    let mut counts = BTreeMap::<String, u64>::new();
    for (name, calls) in stats.lines().filter_map(calls) {
        *counts.entry(name).or_default() += calls;
    }
    counts
}

/// As below, by what the server is asked to do for it.
#[tokio::test]
async fn a_name_that_is_taken_elsewhere_costs_a_server_what_it_would_cost_otherwise() {
    let mut costs = Vec::new();
    for elsewhere in ELSEWHERE {
        let (store, _, server) = in_redis().await;
        let fixture = RegistryFixture::on(store);
        take_ann(&fixture, elsewhere).await;
        // From here on the server knows the scripts, and the project is there.
        fixture.try_user(&boss("beta"), "bob", "beta", &RUN).await.unwrap();
        let before = commands(&server).await;
        let made = fixture.try_user(&boss("beta"), "ann", "beta", &RUN).await.unwrap();
        assert_eq!((&*made.name, made.version), ("beta/ann", 1), "{elsewhere}");
        let mut cost = commands(&server).await;
        cost.iter_mut().for_each(|(name, calls)| *calls -= before.get(name).copied().unwrap_or_default());
        cost.retain(|_, calls| *calls > 0);
        costs.push(cost);
    }
    println!("{:?}", costs[0]);
    assert!(costs[0].contains_key("get") && costs.iter().all(|cost| *cost == costs[0]), "{costs:#?}");
}

/// The same answer, the same row and nothing in any other project, whether or not the name is taken elsewhere.
#[tokio::test]
async fn a_name_that_is_taken_elsewhere_is_made_as_if_it_were_not() {
    let mut tried = 0;
    for elsewhere in ELSEWHERE {
        let fixture = RegistryFixture::new();
        take_ann(&fixture, elsewhere).await;
        let before =
            (fixture.log().await.len(), fixture.store.users(UserQuery { limit: 9, ..UserQuery::default() }).await);
        let looked_at = looked_at(&fixture);
        let made = fixture.try_user(&boss("beta"), "ann", "beta", &RUN).await.unwrap();
        assert_eq!(self::looked_at(&fixture), looked_at, "{elsewhere}: no list is read for it");
        assert_eq!(
            (&*made.name, &*made.project, made.sessions, made.version),
            ("beta/ann", "beta", 1, 1),
            "{elsewhere}"
        );
        let log = fixture.log().await;
        assert_eq!(log.len(), before.0 + 1, "{elsewhere}");
        let row = &log[0];
        assert_eq!((&*row.target, row.project.as_deref(), row.outcome), ("user:beta/ann", Some("beta"), Outcome::Done));
        // Whoever was there is as before, and in one project the name is taken once.
        let now = fixture.store.users(UserQuery { limit: 9, ..UserQuery::default() }).await.unwrap();
        assert_eq!(now.iter().filter(|user| user.name != "beta/ann").cloned().collect::<Vec<_>>(), before.1.unwrap());
        let twice = fixture.try_user(&boss("beta"), "ann", "beta", &RUN).await;
        assert!(matches!(&twice, Err(RegistryError::Conflict(text)) if !text.contains("acme")), "{twice:?}");
        tried += 2;
    }
    println!("{tried} creations");
}

#[tokio::test]
async fn a_name_is_taken_once_in_a_project_whenever_it_was_made() {
    let fixture = RegistryFixture::new();
    let (operator, registry) = (Actor::operator(), &fixture.registry);
    older(&fixture, "ann", "acme").await;
    let taken = fixture.try_user(&boss("acme"), "ann", "acme", &RUN).await.unwrap_err();
    assert!(taken.to_string().contains("taken"), "{taken}");
    registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    let kept = fixture.try_user(&boss("acme"), "ann", "acme", &RUN).await.unwrap_err();
    assert!(kept.to_string().contains("tollgate users free ann"), "{kept}");
    registry.free_user_name(&operator, "ann").await.unwrap();
    assert_eq!(fixture.user("ann", "acme", &RUN).await.name, "acme/ann");
    // Whoever has no project in front of the name may come to another one, unless the name is taken there.
    let moves = async |name: &str, project: &str| {
        let change = UserChange { project: Some(project.to_owned()), ..UserChange::default() };
        registry.update_user(&fixture.policy, &operator, name, change, Expected::Any).await.map(|made| made.result.name)
    };
    older(&fixture, "bob", "acme").await;
    fixture.user("bob", "beta", &RUN).await;
    for (name, project) in [("acme/bob", "beta"), ("beta/bob", "acme"), ("beta/bob", "*")] {
        assert!(matches!(moves(name, project).await, Err(RegistryError::Conflict(_))), "{name} to {project}");
    }
    registry.delete_user(&operator, "beta/bob", Expected::Any).await.unwrap();
    assert!(matches!(moves("bob", "beta").await, Err(RegistryError::Conflict(_))), "the name is kept");
    registry.free_user_name(&operator, "beta/bob").await.unwrap();
    assert_eq!(moves("bob", "beta").await, Ok("bob".to_owned()));
    let taken = fixture.try_user(&boss("beta"), "bob", "beta", &RUN).await;
    assert!(matches!(taken, Err(RegistryError::Conflict(_))), "{taken:?}");
}

#[tokio::test]
async fn a_name_means_one_user_or_nobody() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    fixture.user("ann", "acme", &RUN).await;
    fixture.user("eve", "*", &RUN).await;
    older(&fixture, "old", "acme").await;
    let named = async |actor: &Actor, name: &str| fixture.registry.user(actor, name).await.map(|user| user.name);
    for (name, known) in [
        ("ann", Some("acme/ann")),
        ("acme/ann", Some("acme/ann")),
        ("beta/ann", None),
        ("eve", Some("eve")),
        ("acme/eve", None),
        ("old", Some("old")),
        ("acme/old", Some("old")),
        ("beta/old", None),
        ("nobody", None),
        ("acme/nobody", None),
    ] {
        assert_eq!(logs_in(&fixture, name).await.as_deref(), known, "{name}");
        assert_eq!(named(&operator, name).await.ok().as_deref(), known, "{name}");
    }
    // Another project has these names, too.
    for name in ["ann", "eve", "old"] {
        fixture.try_user(&boss("beta"), name, "beta", &RUN).await.unwrap();
    }
    for (name, known) in [
        ("ann", None),
        ("acme/ann", Some("acme/ann")),
        ("eve", Some("eve")),
        ("old", Some("old")),
        ("acme/old", Some("old")),
        ("beta/old", Some("beta/old")),
        ("beta/eve", Some("beta/eve")),
    ] {
        assert_eq!(logs_in(&fixture, name).await.as_deref(), known, "{name}");
    }
    let which = named(&operator, "ann").await.unwrap_err();
    assert!(which.to_string().contains("acme/ann, beta/ann"), "{which}");
    let which = named(&operator, "old").await.unwrap_err();
    assert!(which.to_string().contains("beta/old, acme/old"), "{which}");
    // To whoever is bound to a project a name is one of that, and no other one is told of.
    for (project, name, known) in [
        ("acme", "ann", Ok("acme/ann")),
        ("beta", "ann", Ok("beta/ann")),
        ("acme", "old", Ok("old")),
        ("beta", "old", Ok("beta/old")),
        ("acme", "eve", Err("there is no user acme/eve")),
        ("gamma", "ann", Err("there is no user gamma/ann")),
        ("gamma", "acme/ann", Err("there is no user acme/ann")),
        ("gamma", "acme/old", Err("there is no user acme/old")),
        ("gamma", "acme/nobody", Err("there is no user acme/nobody")),
    ] {
        let found = named(&boss(project), name).await.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(|text| &**text), known, "{project}: {name}");
    }
    // Deleted or moved away, the name means the other one again.
    fixture.registry.delete_user(&operator, "acme/ann", Expected::Any).await.unwrap();
    assert_eq!(logs_in(&fixture, "ann").await.as_deref(), Some("beta/ann"));
    assert_eq!(logs_in(&fixture, "acme/ann").await, None);
}

/// What is done once more, as after a time-out, falls on nobody who is called alike elsewhere.
#[tokio::test]
async fn the_name_of_who_was_deleted_means_nobody_else() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    fixture.user("ann", "*", &RUN).await;
    fixture.user("ann", "beta", &RUN).await;
    let delete =
        async || fixture.registry.delete_user(&operator, "ann", Expected::Any).await.map(|made| made.name.clone());
    assert_eq!(delete().await.as_deref(), Ok("ann"));
    assert!(matches!(delete().await, Err(RegistryError::NotFound(_))));
    assert!(fixture.registry.user(&operator, "beta/ann").await.is_ok());
    // The name can be given free all the same, and then it means who is left.
    assert_eq!(fixture.registry.free_user_name(&operator, "ann").await.unwrap().name, "ann");
    assert_eq!(fixture.registry.user(&operator, "ann").await.unwrap().name, "beta/ann");
}

#[tokio::test]
async fn an_older_store_goes_on_with_names_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let open = || Store::Embedded(Arc::new(signed::embedded(&path, Duration::from_secs(10)).unwrap()));
    drop(open());
    signed::file_says(&path, 2);
    let store = open();
    let fixture = RegistryFixture::on(store.clone());
    assert_eq!(fixture.user("ann", "acme", &RUN).await.name, "ann");
    let taken = fixture.try_user(&boss("beta"), "ann", "beta", &RUN).await;
    assert!(matches!(taken, Err(RegistryError::Conflict(_))), "{taken:?}");
    assert_eq!(fixture.registry.user(&boss("acme"), "ann").await.unwrap().name, "ann");
    tollgate::store::upgrade::upgrade(&store).await.unwrap();
    // Everybody is called what they were called, and the names of other projects are free.
    assert_eq!(logs_in(&fixture, "ann").await.as_deref(), Some("ann"));
    assert_eq!(fixture.try_user(&boss("beta"), "ann", "beta", &RUN).await.unwrap().name, "beta/ann");
    assert_eq!(logs_in(&fixture, "acme/ann").await.as_deref(), Some("ann"));
    assert_eq!(fixture.registry.user(&boss("acme"), "ann").await.unwrap().name, "ann");
    assert!(matches!(fixture.try_user(&boss("acme"), "ann", "acme", &RUN).await, Err(RegistryError::Conflict(_))));
}
