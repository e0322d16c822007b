//! Runs real servers on a free port, each in its own folder, and ends them with the test.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Limit for the start of a server, far above what any needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// A child that is killed when dropped: a server or its load.
#[derive(Debug)]
pub struct Background {
    child: Child,
    invocation: String,
}

impl Background {
    /// Starts it and discards its output.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; run scripts/setup-tests"));
        Self { child, invocation: format!("{command:?}") }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens on a local port.
    ///
    /// # Panics
    /// When it ends first, or takes minutes.
    pub fn wait_listening(&mut self, port: u16) {
        self.wait_until("listening", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Waits until a condition holds, for example that a load has started.
    ///
    /// # Panics
    /// When the child ends first, or it takes minutes.
    pub fn wait_until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status} before it was {what}", self.invocation);
            }
            assert!(began.elapsed() < PATIENCE, "{} is not {what}", self.invocation);
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that it is still running: recording must not end it.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("the child's status can be read");
        assert!(ended.is_none(), "{} ended: {ended:?}", self.invocation);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // SIGTERM lets a server end its own children; the loop below reaps it.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
///
/// # Panics
/// When the machine has none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A folder that other users can enter, for servers that change their user.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn open_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))
        .expect("its mode can be set");
    folder
}

/// A redis server without persistence, and its port.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn redis(folder: &Path) -> (Background, u16) {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder);
    let mut server = Background::start(&mut command);
    server.wait_listening(port);
    (server, port)
}

/// A PostgreSQL server with a filled pgbench database.
#[derive(Debug)]
pub struct Postgres {
    /// The postmaster.
    pub server: Background,
    bin: PathBuf,
    folder: PathBuf,
    port: String,
}

/// A PostgreSQL server that does not wait for the disk (`-F`), in a folder that other users can
/// enter.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn postgres(folder: &Path) -> Postgres {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("postgresql; run scripts/setup-tests");
    let mut bins: Vec<_> = versions.flatten().map(|e| e.path().join("bin")).collect();
    bins.sort();
    let bin = bins.pop().expect("a version of postgresql");
    let (data, port) = (folder.join("data"), free_port().to_string());
    let done = |command: &mut Command| {
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let initialize = ["-N", "-A", "trust", "-U", "test", "--locale=C", "-E", "UTF8", "-D"];
    done(as_nobody(&bin, folder, "initdb").args(initialize).arg(&data));
    let mut command = as_nobody(&bin, folder, "postgres");
    command.arg("-D").arg(&data).arg("-k").arg(folder);
    command.args(["-p", &port, "-h", "127.0.0.1", "-F"]);
    let mut server = Background::start(&mut command);
    server.wait_until("ready", || {
        let ask = ["-h", "127.0.0.1", "-p", &port, "-c", "select 1", "postgres"];
        let output = as_nobody(&bin, folder, "psql").args(ask).output();
        output.is_ok_and(|o| o.status.success())
    });
    let postgres = Postgres { server, bin, folder: folder.into(), port };
    done(&mut postgres.pgbench(&["-i", "-q", "-s", "1"]));
    postgres
}

impl Postgres {
    /// A pgbench command for it, with these arguments.
    #[must_use]
    pub fn pgbench(&self, args: &[&str]) -> Command {
        let mut command = as_nobody(&self.bin, &self.folder, "pgbench");
        command.args(["-h", "127.0.0.1", "-p", &self.port]).args(args).arg("postgres");
        command
    }
}

/// Postgres refuses to run as root.
fn as_nobody(bin: &Path, folder: &Path, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bin.join(program));
    command.current_dir(folder).env("LC_ALL", "C").env("PGUSER", "test");
    command
}

/// A MariaDB server with a table of ten rows.
#[derive(Debug)]
pub struct Mariadb {
    /// The server.
    pub server: Background,
    socket: PathBuf,
}

/// A MariaDB server with a binary log, in a folder that other users can enter. It listens only on a
/// socket there.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn mariadb(folder: &Path) -> Mariadb {
    let (data, socket) = (folder.join("data"), folder.join("socket"));
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let install = as_nobody(Path::new("/usr/bin"), folder, "mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(option("datadir", &data))
        .output()
        .expect("it runs; run scripts/setup-tests");
    assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
    let mut command = as_nobody(Path::new("/usr/sbin"), folder, "mariadbd");
    command.args(["--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=0"]);
    command.args(["--sync-binlog=1", "--binlog-format=ROW"]);
    command.arg(option("datadir", &data)).arg(option("socket", &socket));
    command.arg(option("log-bin", &folder.join("binlog")));
    command.arg(option("pid-file", &folder.join("pid")));
    let mut server = Background::start(&mut command);
    server.wait_until("ready", || {
        client("mariadb-admin", &socket).arg("ping").output().is_ok_and(|o| o.status.success())
    });
    let mariadb = Mariadb { server, socket };
    mariadb.ask(
        "create database test; create table test.c (id int primary key, n int) engine=innodb; \
         insert into test.c values (0,0),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0),(8,0),(9,0)",
    );
    mariadb
}

impl Mariadb {
    /// Executes statements and returns their results without headings.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn ask(&self, statements: &str) -> String {
        let output = client("mariadb", &self.socket).args(["-N", "-e", statements]).output();
        let output = output.expect("mariadb; run scripts/setup-tests");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Connections that execute these statements repeatedly.
    #[must_use]
    pub fn load(&self, connections: u32, statements: &str) -> Background {
        let mut command = client("mariadb-slap", &self.socket);
        command.args(["--create-schema=test", "--no-drop", "--delimiter=;"]);
        command.arg("--number-of-queries=1000000000");
        command.arg(format!("--concurrency={connections}"));
        command.arg(format!("--query={statements}"));
        Background::start(&mut command)
    }
}

fn client(program: &str, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-defaults", "-u", "root", "-S"]).arg(socket);
    command
}

/// An nginx with one worker that serves an `index.html` of 4 KiB, and its port. Returns the master
/// process.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn nginx(folder: &Path) -> (Background, u16) {
    let port = free_port();
    std::fs::write(folder.join("index.html"), "x".repeat(4096)).expect("the folder is ours");
    let dir = folder.display();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
         events {{ worker_connections 256; }}
         http {{
           access_log off;
           client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
           uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
           server {{ listen 127.0.0.1:{port}; root {dir}; }}
         }}"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, configuration).expect("the folder is ours");
    let nginx =
        ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|p| Path::new(p).exists());
    let nginx = nginx.expect("nginx; run scripts/setup-tests");
    let mut master = Background::start(Command::new(nginx).arg("-c").arg(&path));
    master.wait_listening(port);
    (master, port)
}
