//! What the check listener counts before it works, and what it waits for at its end.

use super::*;

/// In which something is done on a busy machine.
const SOON: Duration = Duration::from_secs(4);

/// Checks that were decided.
fn decided(fixture: &Fixture) -> usize {
    let text = fixture.telemetry.render(&fixture.resolver).unwrap();
    let counts = text.lines().filter(|line| line.starts_with("tollgate_checks_total"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[tokio::test]
async fn a_strangers_answer_is_counted_before_it_is_decided() {
    let fixture = Fixture::new().await;
    let listener = CheckListener::bind(&on_tcp()).unwrap();
    let address = listener.local_address().unwrap();
    let options = Options { workers: 1, drain: Duration::from_secs(20), reflection: false };
    let (budget, (stop, stopped)) = (Budget::new(), oneshot::channel::<()>());
    let shutdown = async { drop(stopped.await) };
    let served = tokio::spawn(listener.serve(fixture.service.clone(), options, Arc::clone(&budget), shutdown));
    // This one holds nearly what each connection has besides, and others all there is for strangers.
    let mut client = RawClient::connect(address).await;
    let halves = [(); 2].map(|()| {
        let (response, mut body) = client.open("application/grpc");
        body.send_data(Bytes::from_static(&[0; 3]), false).unwrap();
        (response, body)
    });
    let places = Places::new(UNIX_CONNECTION_LIMITS);
    let others: Vec<_> = (0..16).map(|_| places.enter(None).unwrap()).collect();
    let accounts: Vec<_> = others.iter().map(|place| budget.open(Arc::clone(place.peer_state()))).collect();
    let of_all = || accounts.iter().filter_map(|account| account.hold(16 << 10).ok()).collect::<Vec<_>>();
    let held: Vec<_> = std::iter::from_fn(|| Some(of_all()).filter(|held| !held.is_empty())).collect();
    // Small enough to be read with its head.
    let message = framed(&check_of("/", "nonsense").encode_to_vec());
    for _ in 0..8 {
        assert_eq!(client.call(&[&message]).await.grpc, Some(Code::ResourceExhausted as i32));
    }
    assert_eq!(decided(&fixture), 0);
    drop((held, accounts, halves));
    let decides = async { while client.call(&[&message]).await.grpc == Some(Code::ResourceExhausted as i32) {} };
    timeout(SOON, decides).await.unwrap();
    assert_eq!(decided(&fixture), 1);
    drop(client);
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn workers_that_hear_nobody_hold_up_no_end() {
    let (sender, _deaf) = mpsc::channel(1);
    let mut workers = Workers { threads: vec![(sender, std::thread::spawn(|| ()))], next: 0 };
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..3).map(|_| std::os::unix::net::UnixStream::pair().unwrap()).unzip();
    let waiting = ours.into_iter().map(Accepted::Unix).collect();
    let places = Places::new(UNIX_CONNECTION_LIMITS);
    let end = workers.hand_over_last(waiting, &places, Duration::from_millis(20));
    timeout(SOON, end).await.expect("it waits no longer than for calls");
    // Those who were not handed over are closed.
    for mut peer in theirs.into_iter().skip(1) {
        assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
    }
}
