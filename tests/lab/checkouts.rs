//! Commits of a git repository on another host, over ssh with a deploy key, and over HTTPS: a program that a unit runs.

use crate::support::alone::World;
use crate::support::lab::{H1, Lab};

const GIT: (&str, &str) = ("git", "192.168.1.10");

/// The server: a repository, whose first commit is a program that says `one`, and its second one that says `two`.
const SERVER: &str = r#"set -eu
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y openssh-server >/dev/null
systemctl start ssh
useradd -m -s /usr/bin/git-shell git
firewall-cmd -q --add-service=ssh
firewall-cmd -q --add-port=8443/tcp
git init -q /root/app && cd /root/app
git config user.name lab && git config user.email lab@example.org
mkdir -p bin share/doc
printf '#!/bin/sh\necho one > /run/app/said\nexec sleep infinity\n' > bin/run
chmod +x bin/run && ln -s run bin/start
echo read > share/doc/README
git add -A && git commit -qm one
sed -i s/one/two/ bin/run && git rm -qr share && git commit -qam two
git clone -q --bare /root/app /home/git/app.git
chown -R git: /home/git/app.git
cd /root && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=git.example.org -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:git.example.org 2>/dev/null
"#;

/// A web server with TLS that runs git's own program for HTTP.
const WEB: &str = r#"
import http.server, os, ssl, subprocess
class Handler(http.server.BaseHTTPRequestHandler):
    def serve(self):
        path, _, query = self.path.partition('?')
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        env = {'GIT_PROJECT_ROOT': '/home/git', 'GIT_HTTP_EXPORT_ALL': '1', 'REQUEST_METHOD': self.command, 'PATH_INFO': path,
               'QUERY_STRING': query, 'CONTENT_TYPE': self.headers.get('Content-Type') or '', 'CONTENT_LENGTH': str(len(body)),
               'PATH': os.environ['PATH'], 'HOME': '/root'}
        out = subprocess.run(['git', '-c', 'safe.directory=*', 'http-backend'], input=body, env=env, capture_output=True).stdout
        head, _, rest = out.partition(b'\r\n\r\n')
        fields = dict(line.split(': ', 1) for line in head.decode().split('\r\n'))
        self.send_response(int(fields.pop('Status', '200')[:3]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)
    do_GET = do_POST = serve
server = http.server.ThreadingHTTPServer(('', 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/root/cert.pem', '/root/key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

fn role(url: &str, commit: &str) -> String {
    format!(
        r#"[[user]]
name = "app"
[[checkout]]
path = "/opt/app"
url = "{url}"
commit = "{commit}"
owner = "app"
group = "app"
exclusive = true
[[unit]]
name = "app.service"
content = """
[Service]
ExecStart=/opt/app/bin/start
User=app
RuntimeDirectory=app
[Install]
WantedBy=multi-user.target
"""
enable = true
state = "running"
restart_when = ["checkout:/opt/app"]
"#
    )
}

#[test]
fn a_program_is_deployed_by_commit_over_ssh_and_https_updated_and_undone() {
    let lab = Lab::new(&[GIT, H1]);
    let git = lab.host("git");
    git.run(SERVER).ok();
    git.write("/root/web.py", WEB);
    git.run("systemd-run -q --unit=web python3 /root/web.py").ok();
    let commit = |name: &str| git.run(&format!("git -C /root/app rev-parse '{name}^{{commit}}'")).ok();
    let (one, two) = (commit("HEAD~1"), commit("HEAD"));
    let world = World::on(lab);
    let (host, git) = (world.host(), world.0.host("git"));
    host.run("echo '192.168.1.10 git.example.org' >> /etc/hosts && mkdir -p /opt/app && echo theirs > /opt/app/theirs")
        .ok();
    // kpull needs none
    host.run("rm /usr/bin/git").ok();
    // a deploy key of this host, and the host key of the server
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519").ok();
    let key = host.run("cat /root/.ssh/id_ed25519.pub").ok();
    let known = git.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok();

    let ssh = "git@git.example.org:app.git";
    world.release(&role(ssh, &one));
    let apply = host.run("kpull apply");
    assert_eq!(apply.code(), 1, "{apply}");
    assert!(format!("{apply}").contains("can't be reached over ssh"), "{apply}");
    host.run("test ! -e /opt/app/bin").ok();
    host.write("/root/.ssh/known_hosts", format!("git.example.org {known}\n"));
    git.run(&format!("install -d -o git -m 700 /home/git/.ssh && echo '{key}' > /home/git/.ssh/authorized_keys")).ok();
    world.converges();
    let answer = "for i in $(seq 50); do [ -e /run/app/said ] && break; sleep 0.1; done; cat /run/app/said";
    assert_eq!(host.run(answer).ok(), "one");
    assert_eq!(
        host.run("cd /opt/app && find . -type f -printf '%P %m %u\\n' | sort; readlink bin/start").ok(),
        "bin/run 755 app\nshare/doc/README 644 app\nrun"
    );

    // over HTTPS, with the server's authority; the unit restarts
    git.run("systemctl is-active web").ok();
    let cert = git.run("cat /root/cert.pem").ok();
    host.write("/etc/kpull/git.pem", cert + "\n");
    host.run(
        "printf '[artifacts]\\nca = \"/etc/kpull/git.pem\"\\n' >> /etc/kpull/kpull.toml && rm /root/.ssh/id_ed25519",
    )
    .ok();
    world.release(&role("https://git.example.org:8443/app.git", &two));
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    host.run("rm /run/app/said").ok();
    world.converges();
    assert_eq!(host.run(answer).ok(), "two");
    host.run("test ! -e /opt/app/share").ok();

    // without the server: nothing to do, drift, and the commit before
    git.run("systemctl stop web ssh ssh.socket").ok();
    world.is_converged();
    host.run("echo drift >> /opt/app/bin/run && touch /opt/app/bin/more").ok();
    world.converges();
    assert_eq!(host.run("ls /opt/app/bin; grep -c drift /opt/app/bin/run; true").ok(), "run\nstart\n0");
    host.run("rm /run/app/said && kpull rollback").ok();
    assert_eq!(host.run(answer).ok(), "one");
    world.release("");
    host.run("kpull apply --retry").ok();
    assert_eq!(host.run("find /opt/app -type f -exec cat {} +; ls /opt/app").ok(), "theirs\ntheirs");
    world.is_converged();
}
