//! Resources over the API.

use serde_json::{Value, json};

use super::Api;

#[tokio::test]
async fn resources_are_registered_shown_moved_and_deleted() {
    let api = Api::new();
    let at = "/api/v1/resources/workload/w-1";
    let put = api.operate("PUT", at, json!({"project": "acme", "slug": "chat", "owner": "key:x"})).await;
    assert_eq!((put.status.as_u16(), put.text("slug"), put.text("project")), (200, "chat".into(), "acme".into()));
    assert_eq!(api.operate("GET", at, Value::Null).await.body, put.body);
    let again = api.operate("PUT", at, json!({"project": "acme", "slug": "chat", "owner": "key:x"})).await;
    assert_eq!(again.body, put.body);
    api.operate("PUT", at, json!({"project": "beta"})).await.is(409, "CONFLICT");
    let moved = api.operate("PUT", at, json!({"project": "beta", "move": true})).await;
    assert_eq!(
        (moved.text("project"), moved.text("slug"), &moved.body["version"]),
        ("beta".into(), "w-1".into(), &json!(2))
    );
    api.operate("PUT", "/api/v1/resources/workload/w-2", json!({"project": "acme"})).await;
    api.operate("PUT", "/api/v1/resources/run/r-1", json!({"project": "acme"})).await;
    for (query, expected) in [("", 3), ("?kind=workload", 2), ("?project=acme", 2), ("?kind=run&project=beta", 0)] {
        let list = api.operate("GET", &format!("/api/v1/resources{query}"), Value::Null).await;
        assert_eq!(list.body["resources"].as_array().unwrap().len(), expected, "{query}");
    }
    let first = api.operate("GET", "/api/v1/resources?limit=1", Value::Null).await;
    assert_eq!(first.text("next"), "run:r-1");
    let second = api.operate("GET", "/api/v1/resources?limit=1&after=run:r-1", Value::Null).await;
    assert_eq!(second.text("next"), "workload:w-1");
    let deleted = api.operate("DELETE", at, Value::Null).await;
    assert_eq!((deleted.status.as_u16(), deleted.body), (200, moved.body));
    for method in ["GET", "DELETE"] {
        api.operate(method, at, Value::Null).await.is(404, "NOT_FOUND");
    }
    for (body, field) in
        [(json!({}), "project"), (json!({"project": "*"}), "project"), (json!({"project": "a", "slug": "*"}), "slug")]
    {
        let refused = api.operate("PUT", at, body).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    api.operate("PUT", at, json!({"project": "a", "force": true})).await.is(400, "VALIDATION_ERROR");
    api.operate("GET", "/api/v1/resources?after=w", Value::Null).await.is(400, "VALIDATION_ERROR");
    api.operate("PUT", "/api/v1/resources/work%20load/a", json!({"project": "a"})).await.is(400, "VALIDATION_ERROR");
}
