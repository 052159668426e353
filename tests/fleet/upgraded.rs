//! A fleet on the store of the release before, whose replicas are replaced one by one and whose store is then raised to the newer
//! format, while it answers: nobody is refused who was let in, whoever is ended meanwhile is refused, and nothing begins before every
//! replica can write the new format. The replicas that are replaced are of that release where `TOLLGATE_EARLIER` names its program, and
//! else of this one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::timeout;
use tollgate::registry::{Actor, Expected, KeySpec};
use tollgate::store::format::Format;
use tollgate::store::redis::connect::Connector;
use tollgate::store::upgrade::upgrade;
use tollgate::store::{Store, StoreError};

use crate::chaos::house::{Here, House, PATIENCE, wait_for};
use crate::chaos::load::{Answer, Key};
use crate::chaos::process::Process;
use crate::signed;

/// How many checks each asker has had answered before, while and after something is done.
const CHECKS: usize = 500;
/// Keys of that store.
const GOOD: &str = "ik_live_9ZjUQwlHHnA7_bfMp2aBX05wexsdZWAuHriQFaoe3DmEuTNfrakxWgpM3dCeQv";
const REVOKED: &str = "ik_live_QfJM9247eXzo_vYKGugVMxjpd1sVs8EwI2CJk6aTRGLpZKu602P3yKqa4MWTov";

fn operator(house: &House) -> Store {
    let connector = Connector::single(&house.server.address()).unwrap();
    // The pepper of that store.
    Store::Redis(Arc::new(signed::redis(connector).with_signers(signed::signers_of(0x5a))))
}

/// What Envoy would ask; it is another replica after each replacement.
type SharedProcess = Arc<Mutex<Arc<Process>>>;

fn at(place: &SharedProcess) -> Arc<Process> {
    Arc::clone(&place.lock().unwrap())
}

/// The program of the release before, if there is one.
fn earlier() -> Option<PathBuf> {
    std::env::var_os("TOLLGATE_EARLIER").map(PathBuf::from)
}

async fn ready(house: &House, program: Option<&Path>) -> Arc<Process> {
    let start = || program.map_or_else(|| house.process(), |program| house.process_of(program));
    let process = Arc::new(block_in_place(start));
    wait_for("a first allow", async || process.check(GOOD).await == Answer::Allowed).await;
    process
}

/// The new one is there before the old one goes, and nobody is asked who is going.
async fn replace(house: &House, place: &SharedProcess) {
    let new = ready(house, None).await;
    let mut old = std::mem::replace(&mut *place.lock().unwrap(), new);
    wait_for("its last answer", async || Arc::get_mut(&mut old).is_some()).await;
    block_in_place(|| Arc::into_inner(old).unwrap().end());
}

async fn made(replica: &Here) -> Key {
    let spec = KeySpec {
        name: "new".to_owned(),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        workloads: vec!["*".to_owned()],
        permissions: vec!["run".to_owned()],
        expires_in: None,
    };
    let made = replica.core.registry.create_key(&replica.policy, &Actor::operator(), spec, None).await.unwrap();
    Key::new(made.record.id, made.secret.expose().to_owned())
}

/// Good keys, asked for without a pause, and what came instead of an allow.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    checks: AtomicUsize,
    failed: Mutex<Vec<Answer>>,
}

impl Load {
    async fn ask(&self, place: &SharedProcess, keys: &[String]) {
        while !self.over.load(Ordering::SeqCst) {
            for key in keys {
                let process = at(place);
                // A machine that stands still answers late, and still answers.
                match timeout(PATIENCE, process.check(key)).await.unwrap_or(Answer::Unavailable) {
                    Answer::Allowed => drop(self.checks.fetch_add(1, Ordering::SeqCst)),
                    other => self.failed.lock().unwrap().push(other),
                }
            }
        }
    }

    async fn goes_on(&self) {
        let so_far = self.checks.load(Ordering::SeqCst);
        wait_for("checks", async || self.checks.load(Ordering::SeqCst) >= so_far + CHECKS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_the_release_before_is_rolled_and_then_upgraded_under_load() {
    let house = House::of_an_earlier_release();
    let (operator, here) = (operator(&house), house.replica().await);
    assert_eq!(operator.format().await.unwrap(), Format::Two);
    let (kept, ended) = (made(&here).await, made(&here).await);
    let earlier = earlier();
    let first = [ready(&house, earlier.as_deref()).await, ready(&house, earlier.as_deref()).await];
    let places = first.map(|process| SharedProcess::new(Mutex::new(process)));
    let load = Arc::<Load>::default();
    let askers = places.clone().map(|place| {
        let (load, keys) = (Arc::clone(&load), [GOOD.to_owned(), kept.text.clone()]);
        tokio::spawn(async move { load.ask(&place, &keys).await })
    });
    load.goes_on().await;
    if earlier.is_some() {
        let error = upgrade(&operator).await.unwrap_err();
        assert!(matches!(&error, StoreError::Conflict(reason) if reason.contains("cannot write format 4")), "{error}");
    }
    for place in &places {
        replace(&house, place).await;
        load.goes_on().await;
    }

    // As an older Tollgate is listed, which is still there.
    let old = r#"{"name":"old-one","seq":0,"h":"","beat":1,"state":"attached","since":1,"version":"0.1.0"}"#;
    house.server.command::<u64>(&["HSET", "tg:{tg}:members", "x", old]);
    let error = upgrade(&operator).await.unwrap_err();
    assert!(matches!(&error, StoreError::Conflict(reason) if reason.contains("old-one (x)")), "{error}");
    assert_eq!(operator.format().await.unwrap(), Format::Two);
    house.server.command::<u64>(&["HDEL", "tg:{tg}:members", "x"]);

    assert_eq!(upgrade(&operator).await.unwrap().was, Format::Two);
    load.goes_on().await;
    // What is ended from now on is ended everywhere, by whichever replica.
    let (actor, registry) = (Actor::operator(), &here.core.registry);
    let lineages = here.fleet.lineages();
    let revoked = registry.revoke_key(&actor, ended.id, Expected::Any).await.unwrap();
    here.fleet.wait(revoked.sequence.unwrap(), lineages, Duration::from_secs(5)).await.unwrap();
    for place in &places {
        assert_eq!(at(place).check(&ended.text).await, Answer::Denied(401));
        assert_eq!(at(place).check(REVOKED).await, Answer::Denied(401));
    }
    load.over.store(true, Ordering::SeqCst);
    for asker in askers {
        asker.await.unwrap();
    }
    assert_eq!(operator.format().await.unwrap(), Format::Four);
    assert_eq!(operator.distrusted().await.unwrap().found, 0);
    let (checks, failed) = (load.checks.load(Ordering::SeqCst), load.failed.lock().unwrap());
    println!("{checks} checks allowed, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?} of {checks}");
}
