//! What a check finds out before anything is sent.

use axum::body::Body;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use syncline_sinks::planner::Faults;
use syncline_sinks::planning::PlanningSink;
use syncline_sinks::{Class, SinkError};

use crate::scripted;
use crate::target::Target;

#[tokio::test]
async fn a_target_that_does_not_answer_or_takes_less_is_found_before_the_first_batch() {
    let target = Target::start(Faults::default()).await;
    target.sink().check().await.expect("it takes everything");

    let mut greedy = target.config();
    greedy.max_records = 1_000_000;
    let error = check(PlanningSink::new(greedy)).await.to_string();
    assert!(
        error.contains("max_records of 10000") && error.ends_with("set max_records = 10000 in the sink"),
        "{error}"
    );

    let mut astray = target.config();
    astray.url = astray.url.join("/elsewhere").expect("a URL");
    assert_eq!(check(PlanningSink::new(astray)).await.class(), Class::Definite);

    let config = target.config();
    target.running.shutdown().await.expect("a clean stop");
    let error = check(PlanningSink::new(config)).await;
    assert_eq!(error.class(), Class::Transient, "{error}");
}

#[tokio::test]
async fn an_answer_without_an_end_does_not_take_the_memory() {
    let config = scripted::target(|_| {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65_536])));
        Body::from_stream(endless).into_response()
    })
    .await;
    let error = check(PlanningSink::new(config)).await;
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("more than 8388608 bytes"), "{error}");
}

async fn check(sink: Result<PlanningSink, SinkError>) -> SinkError {
    sink.expect("sound settings").check().await.expect_err("does not fit")
}
