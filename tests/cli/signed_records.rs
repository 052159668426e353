//! Records that are signed, as an operator sees it: a store that must be signed, one that was set back, and what somebody else has
//! written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tollgate::domain::change::Event;
use tollgate::pepper;
use tollgate::store::format::Format;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::{Store, Write};

use super::moved::Home;
use super::server::{House, Server as Tollgate};
use super::servers::Server;
use super::{run, signed, tollgate};

const HEAD: &str = "tg:{tg}:head";

fn head_says(redis: &Server, format: &str) {
    redis.command::<u64>(&["HSET", HEAD, "format", format]);
}

/// Changes a right in the only key of a store, and leaves its signature as it was.
fn widen(redis: &Server) {
    let keys: Vec<String> = redis.command(&["KEYS", "tg:{tg}:k:*"]);
    let mut value: Vec<u8> = redis.command(&["GET", &keys[0]]);
    let at = value.windows(13).position(|window| window == b"run_inference").unwrap();
    value[at..at + 13].copy_from_slice(b"run_inferencX");
    let mut connection = redis.client().get_connection().unwrap();
    redis::cmd("SET").arg(&keys[0]).arg(value).exec(&mut connection).unwrap();
}

#[test]
fn a_store_that_must_be_signed_is_upgraded_first() {
    let redis = Server::start();
    let home = Home::on(&redis);
    home.run(&["store", "init"]).ends(0);
    head_says(&redis, "3");
    home.serve().make_key();
    let text = fs::read_to_string(&home.0.config).unwrap();
    let warned = fs::read_to_string(home.0.folder.path().join("log")).unwrap();
    assert!(warned.contains("the records of the store are not signed"), "{warned}");
    let found = home.run(&["store", "check"]).ends(7).out;
    assert!(found.contains("has format 3") && found.contains("store.signed: required"), "{found}");

    fs::write(&home.0.config, text.replace("store: {", "store: {signed: required, ")).unwrap();
    let refused = home.run(&["serve"]).ends(1).err;
    assert!(refused.contains("has format 3") && refused.contains("store upgrade --trust-unsigned"), "{refused}");
    let file = home.0.folder.path().join("copy");
    for command in [&["store", "upgrade"][..], &["backup", file.to_str().unwrap()]] {
        let refused = home.run(command).ends(1).err;
        assert!(
            refused.contains("if it was signed before") || refused.contains("If it was signed before"),
            "{refused}"
        );
    }
    let done = home.run(&["store", "upgrade", "--trust-unsigned", "-o", "json"]).ends(0).json();
    assert_eq!((done["was"].as_str(), done["format"].as_str()), (Some("3"), Some("4")));
    home.serve().make_key();

    // Set back by somebody who can write the store, while everything is stopped.
    fs::write(&home.0.config, &text).unwrap();
    head_says(&redis, "3");
    let refused = home.run(&["serve"]).ends(1).err;
    assert!(refused.contains("somebody has put an older store in its place"), "{refused}");
    let refused = home.run(&["store", "upgrade"]).ends(1).err;
    assert!(refused.contains("somebody has put an older store in its place"), "{refused}");
    head_says(&redis, "4");
    home.serve().make_key();
}

#[test]
fn what_somebody_else_has_written_is_named() {
    let redis = Server::start();
    let home = Home::on(&redis);
    home.run(&["store", "init"]).ends(0);
    home.serve().make_key();
    let found = home.run(&["store", "check", "-o", "json"]).ends(0).json();
    let of = |found: &serde_json::Value| -> Vec<String> {
        let whats = found["findings"].as_array().unwrap().iter().filter_map(|finding| finding["what"].as_str());
        whats.filter(|what| what.contains("signature")).map(str::to_owned).collect()
    };
    assert!(of(&found).is_empty() && found["records"].as_u64().unwrap() >= 2, "{found}");
    let replica = home.serve();
    widen(&redis);
    let found = home.run(&["store", "check", "-o", "json"]).ends(7).json();
    let named = of(&found);
    assert!(
        matches!(&*named, [key] if key.contains("the record of key ") && key.contains("a wrong signature")),
        "{named:?}"
    );
    let listed = replica.try_run(&["keys", "list", "-o", "json"]).unwrap();
    assert!(listed.code != 0 && listed.out.is_empty(), "{}", listed.out);
    drop(replica);
    let log = fs::read_to_string(home.0.folder.path().join("log")).unwrap();
    assert!(log.contains("has a wrong signature"), "{log}");
    // Without the pepper nothing is said of signatures.
    fs::remove_file(home.0.folder.path().join("pepper.1")).unwrap();
    let found = home.run(&["store", "check"]).ends(7).out;
    assert!(found.contains("were not looked at") && found.contains("pepper.1"), "{found}");
}

#[test]
fn a_file_is_checked_while_nobody_has_it_open() {
    let mut server = Tollgate::start();
    let key = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
    run(&[&key[..], &["--permissions", "run_inference", "--socket", &server.socket()]].concat()).ends(0);
    let busy = run(&["store", "check", "--config", &server.config()]).ends(4).err;
    assert!(busy.contains("in use by another process"), "{busy}");
    server.stop();
    let check = |code| run(&["store", "check", "--config", &server.config()]).ends(code).out;
    let fine = check(0);
    assert!(fine.contains("Nothing was found") && fine.contains("looked at"), "{fine}");
    // One that somebody has made with a pepper of theirs.
    let store = signed::embedded(&server.folder().join("store.redb"), Duration::ZERO).unwrap();
    store.apply(&[Write::CreateKey(super::migrate::key(1))]).unwrap();
    drop(store);
    let found = check(7);
    assert!(found.contains("the record of key 000000000001 has a wrong signature"), "{found}");
}

#[test]
fn an_upgrade_wants_to_know_what_becomes_of_tokens_for_unknown_projects() {
    let redis = Server::start();
    let home = Home::on(&redis);
    home.run(&["store", "init"]).ends(0);
    head_says(&redis, "3");
    home.serve().make_key();
    let text = fs::read_to_string(&home.0.config).unwrap();
    let issuers = |said: &str| {
        let keys = home.0.folder.path().join("jwks.json").display().to_string();
        let of = |name: &str, project: &str| {
            format!(
                "  - {{name: {name}, issuer: 'https://{name}.test', audience: [a], jwks: {{file: {keys}}}, plane: data,\n     project: \
                 '{project}', workloads: ['*'], permissions: [run_inference]"
            )
        };
        format!("{text}issuers:\n{}{said}}}\n{}}}\n", of("claims", "{tenant}"), of("fixed", "lone"))
    };
    fs::write(&home.0.config, issuers("")).unwrap();
    let asked = home.run(&["store", "upgrade"]).ends(3).err;
    assert!(asked.contains("take the project from a claim: claims.") && asked.contains("unknown_projects"), "{asked}");
    assert_eq!(redis.command::<String>(&["HGET", HEAD, "format"]), "3", "nothing was done");
    fs::write(&home.0.config, issuers(", unknown_projects: refuse")).unwrap();
    home.run(&["store", "upgrade"]).ends(0);
    assert_eq!(redis.command::<String>(&["HGET", HEAD, "format"]), "4");
    let projects: Vec<String> = redis.command(&["ZRANGE", "tg:{tg}:list:projects", "0", "-1"]);
    assert_eq!(projects, ["acme", "lone"]);
    home.run(&["store", "check"]).ends(0);
}

/// How many keys there are, and how often the upgrade is killed: 100,000 and 20 where all of it is asked for.
fn long_or_short() -> (u64, u32) {
    if std::env::var_os("TOLLGATE_CHAOS").is_some() { (100_000, 20) } else { (4_000, 4) }
}

/// Kills upgrades, each a little later than the one before, and lets the last one end.
fn upgrade_with_kills(config: &str, kills: u32, whole: Duration) {
    for n in 1..=kills {
        let mut upgrade = tollgate().args(["store", "upgrade", "--config", config]).spawn().unwrap();
        std::thread::sleep(whole * n / (kills + 1));
        let _ = upgrade.kill();
        upgrade.wait().unwrap();
    }
    run(&["store", "upgrade", "--config", config]).ends(0);
}

#[test]
fn an_upgrade_that_is_killed_again_and_again_ends_whole() {
    let (keys, kills) = long_or_short();
    let all: Vec<u64> = (0..keys).collect();
    let batches =
        || all.chunks(1_000).map(|some| some.iter().map(|n| Write::CreateKey(super::migrate::key(*n))).collect());
    let filled = |store: Store| {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            store.put_pepper_check(signed::pepper().check()).await.unwrap();
            for batch in batches() {
                store.commit(batch, Event::touching(&[])).await.unwrap();
            }
        });
    };
    let is_whole = |store: Store| {
        store.set_signers(pepper::signers(&signed::pepper(), &[]));
        let runtime = Runtime::new().unwrap();
        let found = runtime.block_on(store.distrusted()).unwrap();
        assert_eq!((found.looked_at, found.found), (keys, 0));
        assert_eq!(runtime.block_on(store.format()).unwrap(), Format::Four);
        let last = runtime.block_on(store.key(super::migrate::key(keys - 1).id)).unwrap();
        assert_eq!(last, Some(super::migrate::key(keys - 1)));
    };

    // How long one takes is not known before: the first is the whole of it, on a copy.
    let house = House::with("{embedded: {path: FOLDER/store.redb}}").with_pepper();
    let (config, path) = (house.config.to_str().unwrap(), house.folder.path().join("store.redb"));
    drop(signed::of_server(&path));
    signed::file_says(&path, Format::Three.in_file());
    filled(Store::Embedded(Arc::new(signed::of_server(&path))));
    let copy = House::with("{embedded: {path: FOLDER/store.redb}}").with_pepper();
    fs::copy(&path, copy.folder.path().join("store.redb")).unwrap();
    fs::set_permissions(copy.folder.path().join("store.redb"), fs::Permissions::from_mode(0o600)).unwrap();
    let begun = Instant::now();
    run(&["store", "upgrade", "--config", copy.config.to_str().unwrap()]).ends(0);
    let whole = begun.elapsed();
    upgrade_with_kills(config, kills, whole);
    is_whole(Store::Embedded(Arc::new(signed::of_server(&path))));

    let redis = Server::start();
    let home = Home::on(&redis);
    home.run(&["store", "init"]).ends(0);
    head_says(&redis, "3");
    let runtime = Runtime::new().unwrap();
    let store = || {
        let connector = Connector::single(&redis.address()).unwrap();
        Store::Redis(Arc::new(Redis::new(connector, runtime.handle().clone())))
    };
    filled(store());
    upgrade_with_kills(home.0.config.to_str().unwrap(), kills, whole * 2);
    is_whole(store());
}
