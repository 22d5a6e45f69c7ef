//! [`ConnectOptions`]: how to connect to the database, from a URL and from the variables and files that PostgreSQL's
//! own programs read.

use std::{
    env, fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{error::PostgresError, open_error::OpenError};

/// How long connecting may take, for each address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose other end has vanished is noticed after about 10 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(4);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// Where the database is, and how to connect to it. `Display` and `Debug` show no password.
#[derive(Clone)]
pub struct ConnectOptions {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
}

/// The parameters of a URL about TLS and files, which `tokio-postgres` doesn't know.
#[derive(Default)]
struct FileParameters {
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl ConnectOptions {
    /// Parses a `postgres://` URL. What the URL doesn't contain is taken from `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGDATABASE`, `PGPASSWORD`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT` and `PGSSLKEY`; a missing password also
    /// from the file that `PGPASSFILE` names, or from `~/.pgpass`.
    ///
    /// # Errors
    /// The URL can't be parsed, or a file that it names can't be used.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        Self::from_url(url, &|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_url(url: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        let (url, files) = split_parameters(url)?;
        let mut config: Config = url.parse().map_err(|error| OpenError::BadUrl(reason_of(&error)))?;
        with_variables(&mut config, variable)?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        if config.get_user().is_none() {
            config.user(variable("USER").unwrap_or_else(|| "postgres".to_owned()));
        }
        if config.get_dbname().is_none() {
            config.dbname(config.get_user().unwrap_or_default().to_owned());
        }
        let path = |named: Option<PathBuf>, name: &str| named.or_else(|| variable(name).map(PathBuf::from));
        if config.get_password().is_none() {
            let named = path(files.passfile, "PGPASSFILE");
            let home = variable("HOME").map(|home| Path::new(&home).join(".pgpass"));
            let must_exist = named.is_some();
            if let Some(file) = named.or(home).filter(|file| must_exist || file.exists())
                && let Some(password) = password_in(&file, &config)?
            {
                config.password(password);
            }
        }
        let tls = tls_config(
            &config,
            files.sslmode.or_else(|| variable("PGSSLMODE")).as_deref(),
            path(files.sslrootcert, "PGSSLROOTCERT"),
            path(files.sslcert, "PGSSLCERT"),
            path(files.sslkey, "PGSSLKEY"),
        )?;
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("sagad")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        Ok(ConnectOptions { config, tls })
    }

    /// Connects. A task on the current runtime drives the connection.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        match &self.tls {
            Some(tls) => {
                let connect = MakeRustlsConnect::new(ClientConfig::clone(tls));
                let (client, connection) = self.config.connect(connect).await?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(client)
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(client)
            }
        }
    }

    /// Converts the error of a statement that opens the store.
    pub(super) fn error(&self, error: PostgresError) -> OpenError {
        match error {
            PostgresError::Away(what) => self.unreachable(&what),
            PostgresError::Damaged(what) => OpenError::Damaged(what),
            PostgresError::Refused(what) if what.contains("(42501)") => {
                OpenError::MissingRights { user: self.config.get_user().unwrap_or_default().to_owned(), what }
            }
            PostgresError::Full(_) | PostgresError::NotTheWriter | PostgresError::Refused(_) => {
                OpenError::Unusable(error.to_string())
            }
        }
    }

    pub(super) fn unreachable(&self, what: &str) -> OpenError {
        OpenError::Unreachable { database: self.to_string(), what: what.to_owned() }
    }
}

impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        for (place, host) in self.config.get_hosts().iter().enumerate() {
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            let separator = if place == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{separator}{name}:{port}")?,
                Host::Unix(path) => write!(f, "{separator}{}:{port}", path.display())?,
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectOptions({self})")
    }
}

/// What is wrong with a URL. The text doesn't have the URL, which can have a password.
fn reason_of(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Separates the parameters about files and TLS from a URL.
fn split_parameters(url: &str) -> Result<(String, FileParameters), OpenError> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(OpenError::BadUrl("it does not begin with postgres://".to_owned()));
    }
    let mut files = FileParameters::default();
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), files)) };
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value =
            percent_decoded(value).ok_or_else(|| OpenError::BadUrl(format!("{name} is not percent-encoded")))?;
        match name {
            "sslmode" => files.sslmode = Some(value),
            "sslrootcert" => files.sslrootcert = Some(value.into()),
            "sslcert" => files.sslcert = Some(value.into()),
            "sslkey" => files.sslkey = Some(value.into()),
            "passfile" => files.passfile = Some(value.into()),
            _ => rest.push(parameter),
        }
    }
    Ok((format!("{base}?{}", rest.join("&")), files))
}

fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn with_variables(config: &mut Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), OpenError> {
    if config.get_hosts().is_empty()
        && let Some(hosts) = variable("PGHOST")
    {
        hosts.split(',').for_each(|host| {
            config.host(host);
        });
    }
    if config.get_ports().is_empty()
        && let Some(ports) = variable("PGPORT")
    {
        for port in ports.split(',') {
            config.port(port.parse().map_err(|_| OpenError::BadUrl(format!("PGPORT is no port: {ports:?}")))?);
        }
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER")
    {
        config.user(user);
    }
    if config.get_dbname().is_none()
        && let Some(name) = variable("PGDATABASE")
    {
        config.dbname(name);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    Ok(())
}

/// The password in a file of PostgreSQL's format: lines of `host:port:database:user:password`. The first line that
/// matches counts. `*` matches everything, and a backslash escapes the next character.
fn password_in(file: &Path, config: &Config) -> Result<Option<String>, OpenError> {
    let unusable = |error: io::Error| OpenError::BadFile { path: file.to_owned(), what: error.to_string() };
    let opened = File::open(file).map_err(unusable)?;
    if opened.metadata().map_err(unusable)?.permissions().mode() & 0o077 != 0 {
        let what = "others than its owner can read it; do: chmod 600".to_owned();
        return Err(OpenError::BadFile { path: file.to_owned(), what });
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(_)) | None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let wanted = [&host, &port, config.get_dbname().unwrap_or_default(), config.get_user().unwrap_or_default()];
    for line in BufReader::new(opened).lines() {
        let line = line.map_err(unusable)?;
        let fields = fields(&line);
        if !line.starts_with('#')
            && let [known @ .., password] = &fields[..]
            && known.len() == wanted.len()
            && known.iter().zip(wanted).all(|(known, wanted)| known == "*" || known == wanted)
        {
            return Ok(Some(password.clone()));
        }
    }
    Ok(None)
}

/// The fields of a line, separated by colons.
fn fields(line: &str) -> Vec<String> {
    let (mut all, mut characters) = (vec![String::new()], line.chars());
    while let Some(character) = characters.next() {
        let field = all.last_mut().expect("there is always one");
        match character {
            ':' => all.push(String::new()),
            '\\' => field.extend(characters.next()),
            other => field.push(other),
        }
    }
    all
}

/// The TLS configuration; none if the connection is not encrypted. If it is encrypted, the server's certificate and
/// name are always verified.
fn tls_config(
    config: &Config,
    mode: Option<&str>,
    roots: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Arc<ClientConfig>>, OpenError> {
    let is_local = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Host::Unix(_) => true,
    });
    match mode {
        Some("disable") => return Ok(None),
        Some("verify-full" | "require" | "verify-ca" | "prefer") => {}
        None if is_local => return Ok(None),
        None => {}
        Some(other) => {
            return Err(OpenError::BadUrl(format!("sslmode is {other}; it can be verify-full or disable")));
        }
    }
    let bad = |path: &Path, what: String| OpenError::BadFile { path: path.to_owned(), what };
    let mut store = RootCertStore::empty();
    match &roots {
        Some(path) => {
            for found in CertificateDer::pem_file_iter(path).map_err(|error| bad(path, error.to_string()))? {
                let found = found.map_err(|error| bad(path, error.to_string()))?;
                store.add(found).map_err(|error| bad(path, error.to_string()))?;
            }
            if store.is_empty() {
                return Err(bad(path, "it has no certificate".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Unusable(error.to_string()))?
        .with_root_certificates(store);
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let chain = chain.map_err(|error| bad(&certificate, error.to_string()))?;
            let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| bad(&key, error.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| bad(&certificate, error.to_string()))?
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(path), None) => return Err(bad(&path, "sslkey, the key that belongs to it, is missing".to_owned())),
        (None, Some(path)) => {
            return Err(bad(&path, "sslcert, the certificate that belongs to it, is missing".to_owned()));
        }
    };
    Ok(Some(Arc::new(client)))
}
