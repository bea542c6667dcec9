//! Who may use which model: a caller cannot reach past its route with what it writes into the
//! body.

mod common;

use common::{Broker, Config};
use ringmain_client::{Client, Code};
use ringmain_sim::{Provider, ProviderConfig};

fn ask(client: &Client, route: &str, model: &str) -> Result<serde_json::Value, Code> {
    let body =
        format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"[[sim n=1]]"}}]}}"#);
    let reply = client.request(route, "/chat/completions").body(body.as_bytes()).send();
    reply.map(|reply| serde_json::from_slice(&reply.body).unwrap()).map_err(|error| error.code())
}

#[test]
fn a_guarded_model_cannot_be_named_behind_an_open_route() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    let broker = Broker::start(provider.addr(), Config { tail: tail.into(), ..Config::default() });
    let client = Client::at(broker.socket()).unwrap();
    assert_eq!(ask(&client, "secret", "secret").unwrap_err(), Code::NotAllowed);
    assert_eq!(provider.log().len(), 0);
    let answer = ask(&client, "tiny", "secret").unwrap();
    assert_eq!(answer["model"], "tiny", "{answer}");
}
