//! Every door held by strangers: what the operator, the machines and whoever is known still get.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::server::Server;
use super::{run, run_with, tollgate};

const MANY: u16 = 1100;
const PASSWORD: &str = "correct horse battery staple";
const HALF_A_HEAD: &[u8] = b"GET /live HTTP/1.1\r\nhost: loc";
const HALF_A_BODY: &[u8] = b"POST /api/v1/auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
    content-length: 90\r\n\r\n{\"username\":";

/// A connection from an address of its own, on which this has been said.
fn stranger(address: SocketAddr, number: u16, opening: &[u8]) -> TcpStream {
    let [high, low] = number.to_be_bytes();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 2, high, low], 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    // It may have been hung up on already.
    let _ = stream.write_all(opening);
    stream
}

pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What was done, in far less time than strangers may hold anything up for, and far more than it takes on a busy machine.
#[track_caller]
fn soon<T>(act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = act();
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    done
}

#[test]
fn held_doors_keep_out_neither_the_operator_nor_the_machines_nor_users() {
    let mut server = Server::start();
    let socket = server.socket();
    let create = ["users", "create", "alice", "--project", "acme", "--permissions", "run_inference"];
    let create = [&create[..], &["--password-stdin", "--socket", &socket]].concat();
    run_with(tollgate().args(&create), PASSWORD).ends(0);
    let key = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let mut keys = Vec::new();
    for _ in 0..2 {
        let made = run(&[&key[..], &["--permissions", "run_inference", "-o", "json", "--socket", &socket]].concat());
        keys.push(made.ends(0).json()["id"].as_str().unwrap().to_owned());
    }
    for (opening, id) in [HALF_A_HEAD, HALF_A_BODY].into_iter().zip(&keys) {
        let mut held = Vec::new();
        for number in 0..MANY {
            held.push(stranger(server.ops(), number, opening));
            held.push(stranger(server.admin(), number, opening));
        }
        let mut silent = Vec::new();
        for _ in 0..MANY {
            silent.push(UnixStream::connect(server.check_socket()).unwrap());
            silent.push(UnixStream::connect(&socket).unwrap());
        }
        assert!(soon(|| get(server.ops(), "/live")).contains(r#"{"live":true}"#));
        assert!(soon(|| get(server.ops(), "/ready")).contains(r#""ready":true"#));
        assert!(soon(|| get(server.ops(), "/metrics")).contains("tollgate_build_info"));
        soon(|| run(&["keys", "revoke", id, "--socket", &socket])).ends(0);
        let home = tempfile::tempdir().unwrap();
        let url = server.admin_url();
        let login = ["login", "--url", &url, "--username", "alice", "--password-stdin"];
        let mut login = {
            let mut command = tollgate();
            command.args(login).env("HOME", home.path());
            command
        };
        soon(|| run_with(&mut login, PASSWORD)).ends(0);
    }
    server.stop();
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let mut server = Server::start();
    let mut half = stranger(server.admin(), 1, HALF_A_BODY);
    half.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("VALIDATION_ERROR"), "{answer}");
    server.stop();
}
