//! Reverse proxies to compare with: each with one worker, connections to the provider kept alive,
//! and no buffering.

use std::process::Command;

use crate::error::{BenchError, Result};
use crate::harness::bench::Stage;
use crate::harness::servers::{await_port, free_port};
use crate::harness::{Child, Place};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Haproxy,
    Nginx,
}

/// A running proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    child: Child,
    base_url: String,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        }
    }

    /// What starts it here. Its folder is not in the path of every user.
    pub(super) fn find(self) -> Result<String> {
        let answers = |program: &String| {
            let output = Command::new(program).arg("-v").output();
            output.is_ok_and(|output| output.status.success())
        };
        let places = [self.name().to_owned(), format!("/usr/sbin/{}", self.name())];
        let found = places.into_iter().find(answers);
        found.ok_or_else(|| BenchError::Skip(format!("{} is not installed", self.name())))
    }
}

impl Proxy {
    /// Starts it before the provider at `base_url`.
    pub(super) fn start(stage: &Stage, kind: Kind, base_url: &str, place: Place) -> Result<Proxy> {
        let program = kind.find()?;
        let port = free_port()?;
        let provider = address(base_url);
        let mut command = Command::new(program);
        match kind {
            Kind::Haproxy => {
                let config = stage.workdir.write(".haproxy", &haproxy_config(port, provider))?;
                command.args(["-db", "-q", "-f"]).arg(config);
            }
            Kind::Nginx => {
                let folder = stage.workdir.path().display().to_string();
                let config = nginx_config(port, provider, &folder);
                let config = stage.workdir.write(".nginx", &config)?;
                command.args(["-e", "stderr", "-p", &folder, "-c"]).arg(config);
            }
        }
        let child = Child::start(stage, kind.name(), &mut command, place)?;
        await_port(port)?;
        Ok(Proxy { child, base_url: format!("http://127.0.0.1:{port}/v1") })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// It is one process.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// Host and port of `http://HOST:PORT/v1`.
fn address(base_url: &str) -> &str {
    base_url.trim_start_matches("http://").trim_end_matches("/v1")
}

/// Without a master process there is one process that does all the work and dies with a signal.
fn nginx_config(port: u16, provider: &str, folder: &str) -> String {
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {folder}/{name};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/nginx-{port}.pid;\n\
         worker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n{temp}  keepalive_requests 100000000;\n  \
         upstream provider {{\n    server {provider};\n    keepalive 256;\n    \
         keepalive_requests 100000000;\n  }}\n  server {{\n    listen 127.0.0.1:{port};\n    \
         location / {{\n      proxy_pass http://provider;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_buffering off;\n      \
         proxy_request_buffering off;\n      proxy_read_timeout 300s;\n    }}\n  }}\n}}\n"
    )
}

fn haproxy_config(port: u16, provider: &str) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n\ndefaults\n  mode http\n  option http-no-delay\n  \
         http-reuse always\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\n\
         frontend local\n  bind 127.0.0.1:{port}\n  default_backend provider\n\n\
         backend provider\n  server provider {provider}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_cut_out() {
        assert_eq!(address("http://127.0.0.1:18080/v1"), "127.0.0.1:18080");
    }

    #[test]
    fn configurations_name_both_ends() {
        for text in [nginx_config(81, "127.0.0.1:82", "/t"), haproxy_config(81, "127.0.0.1:82")] {
            assert!(text.contains("127.0.0.1:81") && text.contains("127.0.0.1:82"), "{text}");
        }
    }
}
