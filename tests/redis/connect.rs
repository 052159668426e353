//! Connections: to the primary and to nothing else, with the reason when there is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::cmd;
use rustix::process::Signal;
use tollgate::store::StoreError;
use tollgate::store::redis::connect::{Connector, Spread};
use tollgate::store::redis::location::{Address, Location, Login, Topology};
use tollgate_guard::protocol::Term;

use crate::servers::{Cluster, Sentinel, Server, wait_for};

pub fn address(text: &str) -> Address {
    Address::tcp(text, 0).unwrap()
}

fn addresses(texts: &[String]) -> Vec<Address> {
    texts.iter().map(|text| address(text)).collect()
}

pub fn by_sentinel(addresses: &[String], master: &str) -> Location {
    let sentinels = self::addresses(addresses);
    let topology = Topology::Sentinel { sentinels, master: master.to_owned(), login: Login::default() };
    Location { topology, ..Location::single(address("unused:1")) }
}

pub fn in_cluster(addresses: &[String]) -> Location {
    Location { topology: Topology::Cluster(self::addresses(addresses)), ..Location::single(address("unused:1")) }
}

/// The port of the server that a connection leads to.
async fn port_of(mut connection: impl ConnectionLike) -> u16 {
    let (_, port): (String, String) = cmd("CONFIG").arg("GET").arg("port").query_async(&mut connection).await.unwrap();
    port.parse().unwrap()
}

async fn primary_port(connector: &Connector) -> u16 {
    port_of(connector.primary().await.unwrap()).await
}

/// Why there is no connection.
async fn refusal(connector: &Connector) -> String {
    match connector.primary().await {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_server_by_address_and_by_socket() {
    let server = Server::start();
    let connector = Connector::single(&server.address()).unwrap();
    assert_eq!(primary_port(&connector).await, server.port);
    let Spread::One(spread) = connector.spread().await.unwrap() else { panic!() };
    assert_eq!(port_of(spread).await, server.port);
    let connector = Connector::single(&format!("unix:{}", server.socket().display())).unwrap();
    assert_eq!(primary_port(&connector).await, server.port);
    assert!(Connector::single("redis://a:1").is_err());
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = Server::start();
    let replica = Server::replica_of(&primary, &[]);
    let connector = Connector::single(&replica.address()).unwrap();
    let why = refusal(&connector).await;
    assert!(why.contains(&replica.address()) && why.contains("is a replica"), "{why}");
    // As soon as it is promoted, it is the truth.
    let () = replica.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(primary_port(&connector).await, replica.port);
}

#[tokio::test]
async fn a_server_that_is_gone_or_hangs_is_named_soon() {
    let mut server = Server::start();
    let connector = Connector::single(&server.address()).unwrap();
    server.signal(Signal::STOP);
    let start = Instant::now();
    let why = refusal(&connector).await;
    assert!(why.contains(&server.address()) && why.contains("did not answer"), "{why}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    server.signal(Signal::CONT);
    assert_eq!(primary_port(&connector).await, server.port);
    server.kill();
    assert!(refusal(&connector).await.contains("cannot be reached"));
}

#[tokio::test]
async fn a_server_that_hangs_later_is_noticed_by_the_command() {
    let server = Server::start();
    let mut connection = Connector::single(&server.address()).unwrap().primary().await.unwrap();
    server.signal(Signal::STOP);
    let start = Instant::now();
    let answer = cmd("PING").query_async::<String>(&mut connection).await;
    assert!(answer.unwrap_err().is_timeout() && start.elapsed() < Duration::from_secs(3));
    server.signal(Signal::CONT);
}

const USERS: [&str; 2] = ["user default off", "user tollgate on >correct-horse ~tg:* +@all"];

fn as_user(server: &Server, username: Option<&str>, password: Option<&str>) -> Connector {
    let file = password.map(|password| {
        let path: PathBuf = server.folder().join("password");
        fs::write(&path, password).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    });
    let login = Login { username: username.map(str::to_owned), password: file };
    Connector::open(Location { login, ..Location::single(address(&server.address())) }).unwrap()
}

#[tokio::test]
async fn a_user_of_the_acl() {
    let server = Server::with(&USERS);
    let connector = as_user(&server, Some("tollgate"), Some("correct-horse\n"));
    let mut connection = connector.primary().await.unwrap();
    let user: String = cmd("ACL").arg("WHOAMI").query_async(&mut connection).await.unwrap();
    assert_eq!(user, "tollgate");
    assert!(!format!("{connector:?}").contains("horse"));

    let why = refusal(&as_user(&server, Some("tollgate"), Some("battery-staple"))).await;
    assert!(why.contains("refuses the login") && !why.contains("staple"), "{why}");
    let why = refusal(&as_user(&server, None, None)).await;
    assert!(why.contains("wants a login"), "{why}");
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_role() {
    let server = Server::with(&["user default off", "user tollgate on >correct-horse ~* +@all -role"]);
    let why = refusal(&as_user(&server, Some("tollgate"), Some("correct-horse"))).await;
    assert!(why.contains("ACL"), "{why}");
}

#[tokio::test]
async fn what_a_server_repeats_of_a_login_is_not_repeated() {
    // Such a server says which arguments an unknown command had.
    let server = Server::with(&["rename-command AUTH \"\""]);
    let error = as_user(&server, Some("tollgate"), Some("correct-horse")).primary().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("horse"), "{error}");
}

#[tokio::test]
async fn sentinels_lead_to_the_primary_of_the_moment() {
    let mut fleet = Sentinel::start(2, 3, 1000, &[]);
    let connector = Connector::open(by_sentinel(&fleet.addresses(), Sentinel::MASTER)).unwrap();
    assert_eq!(primary_port(&connector).await, fleet.servers[0].port);
    let unknown = Connector::open(by_sentinel(&fleet.addresses(), "other")).unwrap();
    assert!(refusal(&unknown).await.contains("knows no primary named `other`"));

    // Without the first sentinel, and through a failover.
    fleet.sentinels[0].kill();
    assert_eq!(primary_port(&connector).await, fleet.servers[0].port);
    let old = fleet.servers[0].port;
    fleet.servers[0].kill();
    let deadline = Instant::now() + crate::servers::PATIENCE;
    loop {
        match connector.primary().await {
            Ok(connection) => {
                let port = port_of(connection).await;
                assert!(port != old && fleet.servers.iter().any(|server| server.port == port));
                break;
            }
            Err(StoreError::Unavailable(_)) => assert!(Instant::now() < deadline, "no failover"),
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_sentinel_that_hangs_delays_nobody_for_long() {
    let fleet = Sentinel::start(0, 1, 60_000, &[]);
    // It accepts, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = [vec![silent.local_addr().unwrap().to_string()], fleet.addresses()].concat();
    let connector = Connector::open(by_sentinel(&asked, Sentinel::MASTER)).unwrap();
    let start = Instant::now();
    assert!(matches!(connector.term().await, Ok(Term::Epoch(_))));
    assert_eq!(primary_port(&connector).await, fleet.servers[0].port);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
}

/// Leads there, and lets everybody wait first.
fn slow(address: String) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let address = address.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(400));
                let Ok(server) = std::net::TcpStream::connect(address) else { return };
                let (mut asked, mut asks) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut asked, &mut asks));
                let (mut answers, mut answered) = (server, client);
                // It ends with either of them.
                let _ = std::io::copy(&mut answers, &mut answered);
            });
        }
    });
    here
}

#[tokio::test]
async fn a_sentinel_that_does_not_tell_this_user_does_not_speak_for_the_others() {
    let fleet = Sentinel::start(0, 2, 60_000, &[]);
    let [mute, other] = &fleet.addresses()[..] else { panic!("two sentinels") };
    let () = fleet.sentinels[0].command(&["ACL", "SETUSER", "default", "-sentinel|master"]);
    let term =
        async |addresses: &[String]| Connector::open(by_sentinel(addresses, Sentinel::MASTER)).unwrap().term().await;
    let found = term(&[mute.clone(), slow(other.clone())]).await;
    assert!(matches!(found, Ok(Term::Epoch(_))), "{found:?}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    assert_eq!(term(&[mute.clone(), silent]).await, Ok(Term::Untold));
    assert_eq!(term(std::slice::from_ref(mute)).await, Ok(Term::Fixed));
}

#[tokio::test]
async fn a_primary_that_the_sentinels_have_not_given_up_is_not_believed() {
    let fleet = Sentinel::start(1, 1, 60_000, &[]);
    let connector = Connector::open(by_sentinel(&fleet.addresses(), Sentinel::MASTER)).unwrap();
    let () = fleet.servers[0].command(&["REPLICAOF", "127.0.0.1", &fleet.servers[1].port.to_string()]);
    assert!(refusal(&connector).await.contains("is a replica"));
}

#[tokio::test]
async fn a_sentinel_is_no_store() {
    let fleet = Sentinel::start(0, 1, 60_000, &[]);
    let connector = Connector::single(&fleet.addresses()[0]).unwrap();
    assert!(refusal(&connector).await.contains("is a sentinel"));
}

#[tokio::test]
async fn a_cluster_leads_to_the_owner_of_the_slot() {
    let mut cluster = Cluster::start(3, &[]);
    let owner = cluster.owner_of("{tg}").port;
    for seeds in [&cluster.addresses()[..], &cluster.addresses()[..1], &cluster.addresses()[2..]] {
        let connector = Connector::open(in_cluster(seeds)).unwrap();
        let mut connection = connector.primary().await.unwrap();
        let () = cmd("SET").arg("tg:{tg}:head").arg("x").query_async(&mut connection).await.unwrap();
        assert_eq!(port_of(connection).await, owner);
    }
    let connector = Connector::open(in_cluster(&cluster.addresses())).unwrap();
    let mut spread = connector.spread().await.unwrap();
    for at in 0..64 {
        let () = cmd("SET").arg(format!("tg:use:{at}")).arg(at).query_async(&mut spread).await.unwrap();
    }
    let held: Vec<usize> = cluster.nodes.iter().map(|node| node.command(&["DBSIZE"])).collect();
    assert!(held.iter().all(|count| *count > 1), "{held:?}");

    // A seed that is down is passed over.
    let other = cluster.nodes.iter().position(|node| node.port != owner).unwrap();
    let addresses = {
        let mut addresses = cluster.addresses();
        addresses.swap(0, other);
        addresses
    };
    cluster.nodes[other].kill();
    let connector = Connector::open(in_cluster(&addresses)).unwrap();
    assert_eq!(primary_port(&connector).await, owner);
}

#[tokio::test]
async fn a_single_server_is_no_cluster_and_no_sentinel() {
    let server = Server::start();
    let why = refusal(&Connector::open(in_cluster(&[server.address()])).unwrap()).await;
    assert!(why.contains(&server.address()) && why.contains("no node of a Cluster"), "{why}");
    let why = refusal(&Connector::open(by_sentinel(&[server.address()], "tollgate")).unwrap()).await;
    assert!(why.contains(&server.address()) && why.contains("no sentinel"), "{why}");
}

#[tokio::test]
async fn a_crashed_server_is_found_again() {
    let mut server = Server::start();
    let connector = Connector::single(&server.address()).unwrap();
    let () = server.command(&["SET", "a", "1"]);
    server.restart();
    assert_eq!(primary_port(&connector).await, server.port);
    assert_eq!(server.command::<String>(&["GET", "a"]), "1");
    wait_for("the server to say who it is", || server.info("role").as_deref() == Some("master"));
}
