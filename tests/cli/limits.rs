//! Quotas and rates of the configuration, at the door of the admin API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::run;
use super::server::Server;

const LIMITS: &str = "
quotas: {keys: 40, users: 1, projects: {small: {keys: 2}}}
rates: {actor: {burst: 5, per_second: 1}}
";

/// The whole answer to a request that makes a key.
fn make_key(server: &Server, with: &str, project: &str) -> String {
    let body = format!(
        r#"{{"name":"n","plane":"data","project":"{project}","workloads":["*"],"permissions":["run_inference"]}}"#
    );
    let mut stream = TcpStream::connect(server.admin()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "POST /api/v1/auth/api-keys HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {with}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn whoever_makes_too_much_or_too_many_is_refused_over_http() {
    let server = Server::start_with(LIMITS);
    let socket = server.socket();
    let admin = run(&["keys", "bootstrap", "-q", "--socket", &socket]).ends(0).out;
    let make = |project: &str| make_key(&server, admin.trim(), project);
    let create = |project: &str| {
        let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", project, "--workloads", "*"];
        run(&[&create[..], &["--permissions", "run_inference", "--socket", &socket]].concat())
    };
    // As the operator, whom no rate binds: only the quota is left.
    create("small").ends(0);
    create("small").ends(0);
    let over = make("small");
    assert!(over.starts_with("HTTP/1.1 403 ") && over.contains("PERMISSION_DENIED"), "{over}");
    assert!(over.contains("quotas.projects.small.keys"), "{over}");
    assert!(create("small").ends(5).err.contains("quotas.projects.small.keys"));
    create("large").ends(0);

    let answers: Vec<String> = (0..35).map(|_| make("large")).collect();
    assert!(answers[0].starts_with("HTTP/1.1 201 "), "{}", answers[0]);
    let refused = answers.iter().find(|answer| !answer.starts_with("HTTP/1.1 201 ")).expect("one a second is less");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("RATE_LIMITED"), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n") && refused.contains("rates.actor"), "{refused}");
    create("large").ends(0);
}
