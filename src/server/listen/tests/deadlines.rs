//! How long a connection stays whose peer does not do its part. The clock stands still while anybody has something to do.

use std::future::pending;

use tokio::io::duplex;
use tokio::time;

use super::*;
use crate::server::testing::stranger;

const HOUR: Duration = Duration::from_secs(3600);
const IDLE: Duration = Duration::from_secs(300);
/// By which timers may be late.
const LATE: Duration = Duration::from_secs(1);

struct Door {
    settings: Settings,
    places: Arc<Places>,
    turns: Turns,
}

impl Door {
    async fn new(tls: Option<&Tls>) -> Self {
        let service = Fixture::new().await.service;
        let (_, routes) = other_services(false).await.unwrap();
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls::server_config(tls).unwrap())));
        let (stop, budget) = (CancellationToken::new(), Budget::new());
        let settings = Settings { service, routes, tls, drain: Duration::ZERO, stop, budget };
        Self { settings, places: Places::new(CONNECTION_LIMITS), turns: Turns::new() }
    }

    /// How long it listens to somebody who has said this and nothing more.
    async fn listens_to(&self, opening: &[u8]) -> Duration {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _silent = stranger(listener.local_addr().unwrap(), 1, opening).await;
        let accepted = Accepted::Tcp(listener.accept().unwrap().0, None);
        let place = self.places.enter(None).unwrap();
        time::pause();
        let begun = time::Instant::now();
        let _ = timeout(HOUR, connect(accepted, &place, self.turns.probe(), self.settings.clone())).await;
        time::resume();
        begun.elapsed()
    }

    /// How long it keeps somebody who answers every ping, opens this call, if any, and asks something each time that this has passed.
    async fn keeps(
        &self,
        whoever_speaks: PeerStage,
        is_trusted: bool,
        call: Option<&str>,
        asks_every: Duration,
    ) -> Duration {
        let (ours, theirs) = duplex(64 << 10);
        let place = self.places.enter(None).unwrap();
        if is_trusted {
            place.peer_state().trust();
        }
        let Settings { service, routes, stop, budget, .. } = self.settings.clone();
        let stop = stop.child_token();
        let peer = Peer { account: budget.open(Arc::clone(place.peer_state())), whoever_speaks };
        let calls = Arc::new(Calls::new(service, routes, stop.clone(), peer));
        let client = async {
            let (mut send, connection) = h2::client::handshake(theirs).await.unwrap();
            tokio::spawn(connection);
            let mut ask = |path: &str| {
                let request =
                    Request::post(format!("http://tollgate.local{path}")).header("content-type", "application/grpc");
                let (response, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
                body.send_data(framed(b"").into(), true).unwrap();
                response
            };
            let _open = match call {
                Some(path) => Some(ask(path).await.unwrap()),
                None => None,
            };
            loop {
                time::sleep(asks_every).await;
                ask("/nothing/Here").await.unwrap();
            }
        };
        let begun = time::Instant::now();
        tokio::select! {
            () = connection::serve(ours, calls, self.turns.probe(), stop) => {}
            () = async { client.await; pending().await } => {}
            () = time::sleep(HOUR) => {}
        }
        begun.elapsed()
    }
}

#[tokio::test]
async fn a_greeting_is_not_waited_for_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.issuer.pem()).unwrap();
    let (cert, key) = authority.write(folder.path(), "server");
    let tls = Tls { cert, key, client_ca: ca };
    // The first byte, and the rest.
    for (tls, openings) in [(None, [&b""[..], b"PRI * HT"]), (Some(&tls), [b"", b"\x16\x03\x01\x02\x00\x01"])] {
        let door = Door::new(tls).await;
        for opening in openings {
            let listened = door.listens_to(opening).await;
            let expected = connection::GREETING_TIME..connection::GREETING_TIME + LATE;
            assert!(expected.contains(&listened), "{opening:?}: {listened:?}");
        }
    }
}

#[tokio::test]
async fn a_stranger_that_only_answers_pings_is_sent_away_and_the_known_stay() {
    let door = Door::new(None).await;
    time::pause();
    let watch = Some("/grpc.health.v1.Health/Watch");
    for (what, kept, is_sent_away) in [
        ("silent", door.keeps(PeerStage::Idle, false, None, HOUR).await, true),
        ("watching", door.keeps(PeerStage::Idle, false, watch, HOUR).await, true),
        ("asking now and then", door.keeps(PeerStage::Idle, false, None, IDLE - Duration::from_secs(30)).await, false),
        ("trusted", door.keeps(PeerStage::Idle, true, None, HOUR).await, false),
        ("trusted and watching", door.keeps(PeerStage::Idle, true, watch, HOUR).await, false),
        ("on a socket or with a certificate", door.keeps(PeerStage::Known, false, None, HOUR).await, false),
    ] {
        let expected = if is_sent_away { IDLE..IDLE * 2 } else { HOUR..HOUR + LATE };
        assert!(expected.contains(&kept), "{what}: {kept:?}");
    }
}
