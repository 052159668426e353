//! Inferno, F2 and I7: a password for a token that lives one hour, through Envoy; who guesses is throttled, and what ends a
//! session ends it with the next request.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::cases::headers;
use super::client::{Reply, Sent, http1_from};
use super::deployment::{Deployment, LOGIN, LOGOUT, PASSWORD, WHOAMI, login, refusal};
use super::harness::{Key, clean_command, wait_for};

fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

/// What a token says, whoever signed it.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_login_gives_a_token_and_its_end() {
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    // A credential beside it, good or not, is read by nobody: the route is public.
    let requests = [
        login("ada", PASSWORD),
        login("ada", PASSWORD).bearer("a.stale.token"),
        login("ada", PASSWORD).header("x-api-key", &inferno.root.text),
    ];
    for request in &requests {
        for reply in [inferno.stack.send(request).await, inferno.stack.send_h2(request).await] {
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.header("content-type").as_deref(), Some("application/json"));
            assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"));
            let body = reply.json();
            let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
            fields.sort();
            assert_eq!(fields, ["expires_at", "token"]);
            assert_eq!(inferno.call(body["token"].as_str().unwrap()).await, 200);
        }
    }
    assert_eq!(inferno.stack.take_seen().len(), 6, "the back end saw the calls, and no login");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_whoever_has_no_password_gets_no_token() {
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    inferno.user("off", "acme", &["run_inference"]).await;
    inferno.change_user("off", &json!({"disabled": true})).await;
    let mut answers = Vec::new();
    for (name, password) in [("ada", "wrong horse battery"), ("nobody", PASSWORD), ("off", PASSWORD), ("ADA", PASSWORD)]
    {
        let reply = inferno.login(name, password).await;
        assert_eq!(refusal(&reply), (401, "AUTHENTICATION_FAILED".to_owned()), "{name}");
        assert!(reply.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer ")));
        answers.push(reply.body);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "nobody learns which names exist");
    for (body, status) in [("{}", 400), ("", 400), ("{\"username\":\"ada\"", 400), ("[\"ada\",\"x\"]", 400)] {
        let request = Sent::new("POST", LOGIN).header("content-type", "application/json").body(body);
        assert_eq!(refusal(&inferno.stack.send(&request).await), (status, "VALIDATION_ERROR".to_owned()), "{body}");
    }
    assert_eq!(inferno.status(Sent::new("GET", LOGIN)).await, 403, "no rule allows it");
    assert!(inferno.stack.take_seen().is_empty());
}

fn retry_after(reply: &Reply) -> u64 {
    assert_eq!(refusal(reply), (429, "RATE_LIMITED".to_owned()));
    reply.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{reply:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_who_guesses_a_password_must_wait() {
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    inferno.user("bob", "acme", &["run_inference"]).await;
    let before = inferno.token("ada").await;
    let mut guesses = 0;
    let refused = loop {
        let reply = inferno.login("ada", "wrong horse battery").await;
        if reply.status != 401 {
            break reply;
        }
        guesses += 1;
        assert!(guesses < 40, "nobody is throttled");
    };
    assert!(guesses >= 10, "{guesses} attempts");
    assert!((1..=6).contains(&retry_after(&refused)));
    // Ada waits, others do not, and nobody is locked out who is logged in.
    assert_eq!(inferno.login("bob", PASSWORD).await.status, 200);
    assert_eq!(inferno.call(&before).await, 200);
}

/// One address guesses for many users. It is told from others by what Envoy says, and by nothing that it says itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_the_throttle_counts_the_address_that_envoy_says() {
    const GUESSES: usize = 80;
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    let guess = async |n: usize| {
        let made_up = format!("198.51.100.{n}");
        let request = login(&format!("user-{n}"), "wrong horse battery");
        let request = match n % 4 {
            0 => request,
            1 => request.header("x-envoy-external-address", &made_up),
            2 => request.header("x-forwarded-for", &made_up),
            _ => request.header("x-envoy-external-address", &made_up).header("x-forwarded-for", &made_up),
        };
        inferno.stack.send(&request).await
    };
    // A few at a time: who is turned away because too many wait is not charged.
    let mut replies = Vec::new();
    for first in (0..GUESSES).step_by(8) {
        replies.extend(join_all((first..first + 8).map(guess)).await);
    }
    let throttled: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert!(!throttled.is_empty() && throttled.len() <= GUESSES - 50, "{} of {GUESSES}", throttled.len());
    for reply in throttled {
        assert!(retry_after(reply) >= 1);
    }
    // All of these came over the same Envoy.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let reply = http1_from(elsewhere, inferno.stack.envoy, &login("ada", PASSWORD)).await;
    assert_eq!(reply.status, 200, "somebody else's address is not charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_token_lives_one_hour() {
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    let now = || i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs()).unwrap();
    let before = now();
    let issued = inferno.login("ada", PASSWORD).await.json();
    let token = issued["token"].as_str().unwrap();
    let end = seconds(&issued["expires_at"]);
    assert!((before + 3600..=now() + 3600).contains(&end), "{issued}");
    let said = claims(token);
    assert_eq!(
        (said["exp"].as_i64(), said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap()),
        (Some(end), 3600)
    );
    let whoami = inferno.stack.send(&Sent::new("GET", WHOAMI).bearer(token)).await.json();
    assert_eq!(
        whoami,
        json!({"subject": "user:acme/ada", "project": "acme", "permissions": ["run_inference"],
                              "expires_at": issued["expires_at"]})
    );
    // Nobody makes it live longer: who signs, the public keys say, and only they are shown.
    let keys = inferno.stack.send(&Sent::new("GET", "/.well-known/jwks.json")).await;
    assert_eq!((keys.status, keys.header("cache-control").as_deref()), (200, Some("public, max-age=300")));
    let keys = keys.json()["keys"].as_array().unwrap().clone();
    assert!(!keys.is_empty() && keys.iter().all(|key| key["crv"] == "Ed25519" && key.get("d").is_none()), "{keys:?}");
    let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let longer = said.to_string().replace(&end.to_string(), &(end + 3600).to_string());
    let longer = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(longer));
    assert_eq!((inferno.call(token).await, inferno.call(&longer).await), (200, 401));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_the_command_line_needs_a_login_and_no_key() {
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["manage_keys", "run_inference"]).await;
    let home = tempfile::tempdir().unwrap();
    let url = format!("http://{}", inferno.stack.envoy);
    let run = |arguments: &[&str]| {
        let mut command = clean_command(env!("CARGO_BIN_EXE_tollgate"));
        command.args(arguments).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Who reads no password closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(PASSWORD.as_bytes());
        child.wait_with_output().unwrap()
    };
    let shown = |arguments: &[&str]| {
        let output = run(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert!(!run(&["keys", "list", "--url", &url]).status.success(), "nobody is logged in");
    assert!(run(&["login", "--url", &url, "--username", "ada", "--password-stdin"]).status.success());
    assert_eq!(shown(&["whoami"])["subject"], "user:acme/ada");
    let key = Key::of(&shown(&["keys", "create", "--name", "batch", "--permissions", "run_inference"]));
    assert_eq!(inferno.call(&key.text).await, 200);
    shown(&["keys", "revoke", &key.id]);
    assert_eq!(inferno.call(&key.text).await, 401);
    assert!(run(&["logout"]).status.success());
    assert!(!run(&["whoami", "--url", &url]).status.success(), "nobody is logged in any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_ended_is_refused_with_the_next_request() {
    let inferno = Deployment::start().await;
    for way in ["logout", "disable", "enable", "password", "delete"] {
        inferno.user(way, "acme", &["run_inference"]).await;
        let (token, other) = (inferno.token(way).await, inferno.token(way).await);
        for token in [&token, &other] {
            assert_eq!(inferno.call(token).await, 200, "{way}");
        }
        let user = format!("/api/v1/users/{way}");
        let (disable, enable) = (json!({"disabled": true}), json!({"disabled": false}));
        match way {
            "logout" => {
                let request = Sent::new("POST", LOGOUT).bearer(&token);
                let reply = inferno.stack.send(&request).await;
                assert_eq!((reply.status, reply.json()), (200, json!({"subject": "user:acme/logout"})));
                assert_eq!(inferno.status(request).await, 401, "it cannot be ended twice");
            }
            "disable" => inferno.change_user(way, &disable).await,
            "enable" => {
                inferno.change_user(way, &disable).await;
                inferno.change_user(way, &enable).await;
            }
            "password" => {
                let password = json!({"password": "another horse battery"});
                let request = Sent::new("PUT", &format!("{user}/password")).json(&password);
                assert_eq!(inferno.administer(request).await.status, 200);
            }
            _ => assert_eq!(inferno.administer(Sent::new("DELETE", &user)).await.status, 200),
        }
        // Logging out ends one session; all else ends every one.
        let expected = (401, if way == "logout" { 200 } else { 401 });
        assert_eq!((inferno.call(&token).await, inferno.call(&other).await), expected, "{way}");
        let again = inferno.login(way, PASSWORD).await.status;
        assert_eq!(again, if ["logout", "enable"].contains(&way) { 200 } else { 401 }, "{way}");
    }
    // A key is no session: it is revoked instead.
    let key = Sent::new("POST", LOGOUT).bearer(&inferno.root.text);
    assert_eq!(refusal(&inferno.stack.send(&key).await), (409, "CONFLICT".to_owned()));
}

/// Of several logins one is ended, by its owner through Envoy or by an administrator, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_sessions_is_ended() {
    const SESSIONS: &str = "/api/v1/auth/sessions";
    let inferno = Deployment::start().await;
    inferno.user("ada", "acme", &["run_inference"]).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(inferno.token("ada").await);
    }
    let id = |token: &str| claims(token)["jti"].as_str().unwrap().to_owned();
    let listed = async |request: Sent| {
        let reply = inferno.administer(request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut ids: Vec<String> = reply.json()["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort_unstable();
        ids
    };
    let of_ada = "/api/v1/users/ada/sessions";
    let mut all: Vec<String> = tokens.iter().map(|token| id(token)).collect();
    all.sort_unstable();
    assert_eq!(listed(Sent::new("GET", of_ada)).await, all);
    let end = Sent::new("DELETE", &format!("{of_ada}/{}", id(&tokens[0])));
    assert_eq!(inferno.administer(end).await.status, 200);
    assert_eq!((inferno.call(&tokens[0]).await, inferno.call(&tokens[1]).await), (401, 200));
    let own = Sent::new("DELETE", &format!("{SESSIONS}/{}", id(&tokens[1]))).bearer(&tokens[2]);
    assert_eq!(inferno.stack.send(&own).await.status, 200);
    assert_eq!((inferno.call(&tokens[1]).await, inferno.call(&tokens[2]).await), (401, 200));
    assert_eq!(listed(Sent::new("GET", of_ada)).await, [id(&tokens[2])]);
}

/// Two users of one name log in with their projects; the back end is told which one it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_users_of_one_name_in_two_projects_are_two() {
    let inferno = Deployment::start().await;
    for project in ["acme", "beta"] {
        inferno.user("ada", project, &["run_inference"]).await;
    }
    let mut subjects = Vec::new();
    for name in ["acme/ada", "beta/ada"] {
        let token = inferno.token(name).await;
        assert_eq!(inferno.call(&token).await, 200);
        subjects.extend(inferno.stack.take_seen().iter().map(|seen| headers(seen)["x-tollgate-subject"].clone()));
    }
    assert_eq!(subjects, ["user:acme/ada", "user:beta/ada"]);
    let wrong = inferno.login("acme/ada", "wrong horse battery").await;
    let alone = inferno.login("ada", PASSWORD).await;
    assert_eq!(refusal(&alone), (401, "AUTHENTICATION_FAILED".to_owned()));
    assert_eq!((alone.status, alone.body), (wrong.status, wrong.body));
    // A path has a colon in place of the slash.
    let deleted = inferno.administer(Sent::new("DELETE", "/api/v1/users/acme:ada")).await;
    assert_eq!((deleted.status, deleted.json()["name"].clone()), (200, json!("acme/ada")));
    assert_eq!(inferno.login("ada", PASSWORD).await.status, 200, "it is one user again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_has_a_password_a_token_or_an_email_address() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada@example.com", "acme", &["run_inference"]).await;
    let guess = "a-guess-of-somebody";
    assert_eq!(inferno.login("ada@example.com", guess).await.status, 401);
    assert_eq!(inferno.call(&token).await, 200);
    let denied = inferno.stack.send(&Sent::new("GET", "/metrics").bearer(&token)).await;
    assert_eq!(denied.status, 403);
    let last = denied.header("x-request-id").unwrap();
    let log = |name: &str| std::fs::read_to_string(inferno.stack.dir.path().join(name)).unwrap();
    let told = ["logged in", "a login was refused", &last];
    wait_for("the logs", async || {
        log("envoy.log").contains(&last) && told.iter().all(|told| log("tollgate.log").contains(told))
    })
    .await;
    let signature = token.rsplit('.').next().unwrap();
    for (name, secret) in ["envoy.log", "tollgate.log"]
        .into_iter()
        .flat_map(|name| [PASSWORD, guess, signature, "ada@example.com"].map(|secret| (name, secret)))
    {
        assert!(!log(name).contains(secret), "{name} has {secret}");
    }
}
