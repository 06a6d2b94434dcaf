//! Which configuration wins, and which is refused?

use std::path::PathBuf;
use windlass_server::config::{Config, ConfigError, Sources};

fn load(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = file.map(|text| {
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let owned =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    Config::load(&Sources { file, env: owned(env), flags: owned(flags) })
}

#[test]
fn a_flag_wins_over_a_variable_a_variable_over_the_file_the_file_over_the_default() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n";
    let env = [("WINDLASS_SERVER__LISTEN", "127.0.0.1:2"), ("PATH", "/bin"), ("WINDLASS_DIR", "/x")];
    let flags = [("server.listen", "127.0.0.1:3")];
    for (file, env, flags, port) in [
        (None, &[][..], &[][..], 7420),
        (Some(file), &[][..], &[][..], 1),
        (Some(file), &env[..], &[][..], 2),
        (Some(file), &env[..], &flags[..], 3),
        (None, &env[..], &flags[..], 3),
        (Some(file), &[][..], &flags[..], 3),
    ] {
        assert_eq!(load(file, env, flags).unwrap().server.listen.port(), port);
    }
}

#[test]
fn text_becomes_what_a_key_takes() {
    let env = [
        ("WINDLASS_SERVER__BEHIND_PROXY", "true"),
        ("WINDLASS_SERVER__ALLOWED_HOSTS", "a.example, b.example"),
        ("WINDLASS_SERVER__TRUSTED_PROXIES", "[\"10.0.0.1\"]"),
        ("WINDLASS_SERVER__DRAIN_SECONDS", "0.5"),
        ("WINDLASS_STORE__PATH", "/data/1.db"),
        ("WINDLASS_AUTH__JWT_TENANT_CLAIM", "42"),
        ("WINDLASS_AGENTS__HOUSE__KIND", "builtin"),
    ];
    let config = load(None, &env, &[]).unwrap();
    assert!(config.server.behind_proxy);
    assert_eq!(config.server.allowed_hosts, ["a.example", "b.example"]);
    assert_eq!(config.server.trusted_proxies, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.server.drain_seconds.0.as_millis(), 500);
    assert_eq!(config.store.path, Some(PathBuf::from("/data/1.db")));
    assert_eq!(config.auth.jwt_tenant_claim, "42");
    assert_eq!(config.agents["house"].kind(), "builtin");
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    for (file, place, error) in [
        ("[server]\nlisten = \"127.0.0.1:1\"\nlisten2 = 1\n", "config.toml:3:1", "listen2"),
        ("[servers]\n", "config.toml:1:2", "servers"),
        ("[server]\nlisten = \"somewhere\"\n", "config.toml:2:10", "address"),
        ("[limits]\nconnections = -1\n", "config.toml:2:15", ""),
        ("[limits]\nbody_seconds = 0\n", "config.toml:2:16", "seconds"),
        ("[server\n", "config.toml:1:8", ""),
        ("[agents.house]\nkind = \"robot\"\n", "config.toml:", "robot"),
        ("[agents.\"a b\"]\nkind = \"builtin\"\n", "agents.a b", "name"),
        ("[auth]\njwt_issuer = \"x\"\n", "auth", "together"),
        ("[auth]\njwt_algorithms = [\"HS256\"]\n", "auth.jwt_algorithms", "HS256"),
        ("[server]\ntls_cert = \"x\"\n", "server", "together"),
        ("[server]\nallowed_origins = [\"*\"]\n", "server.allowed_origins", "origin"),
    ] {
        let refused = load(Some(file), &[], &[]).expect_err(file);
        let ConfigError::Invalid { place: found, error: said } = &refused else { panic!("{refused}") };
        assert!(found.contains(place) && said.contains(error), "{file}: {refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
    }
    for (name, text) in [
        ("WINDLASS_SERVER__LISTENN", "127.0.0.1:1"),
        ("WINDLASS_SERVER__LISTEN", "127.0.0.1"),
        ("WINDLASS_LIMITS__CONNECTIONS", "many"),
        ("WINDLASS_SERVERS__LISTEN", "127.0.0.1:1"),
    ] {
        let refused = load(None, &[(name, text)], &[]).expect_err(name).to_string();
        assert!(refused.contains(name), "{refused}");
    }
    let missing = Config::load(&Sources { file: Some("/nowhere/config.toml".into()), ..Sources::default() });
    assert!(matches!(missing, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn the_template_is_a_configuration_and_so_is_what_is_shown() {
    let template = Config::template();
    let commented = load(Some(&template), &[], &[]).expect("the template as it is");
    assert_eq!(format!("{commented:?}"), format!("{:?}", Config::defaults()));
    // Every key of the template, in force.
    let keys = template.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') && key.contains(" = ") => key,
        _ => line,
    });
    let in_force =
        load(Some(&keys.collect::<Vec<_>>().join("\n")), &[], &[]).expect("the template with every key in force");
    assert_eq!(format!("{in_force:?}"), format!("{:?}", Config::defaults()));
    let shown = toml::to_string(&in_force).unwrap();
    assert_eq!(format!("{:?}", load(Some(&shown), &[], &[]).expect("what is shown")), format!("{in_force:?}"));
}

#[test]
fn connections_of_clients_in_the_same_file_are_none_of_the_servers_business() {
    let file = "[profile.work]\nurl = \"https://windlass.example\"\ntoken_file = \"/secret\"\n";
    let config = load(Some(file), &[], &[]).unwrap();
    assert!(!toml::to_string(&config).unwrap().contains("secret"));
}
