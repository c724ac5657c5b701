# Creates the same N templated files of 1 KiB with kpull and with other tools. The benchmarks set `scratch`, `dir` (a directory in
# $scratch) and `n`, and source this file. For each tool, TOOL_world writes the configuration to $dir/TOOL, and TOOL_run runs the tool
# once, which writes the files to $dir/TOOL/out.
target=x86_64-unknown-linux-musl
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kpull/target}
peers=${XDG_CACHE_HOME:-$HOME/.cache}/kpull/tools/peers

# Installs the packages of missing commands, each given as COMMAND:PACKAGE.
need() {
    local pair packages=()
    for pair in "$@"; do [ -x "$(command -v "${pair%%:*}")" ] || packages+=("${pair#*:}"); done
    [ ${#packages[@]} = 0 ] || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${packages[@]}" >/dev/null; }
}

# Builds the release profile, and installs the program in $scratch as on a host, because a file that the linker has just written
# uses more memory.
install_kpull() {
    cargo build --quiet --release --target $target
    kpull=$scratch/bin/kpull
    install -D "$CARGO_TARGET_DIR/$target/release/kpull" "$kpull"
}

text() { printf 'host %s file %s %s' "$1" "$2" "$pad"; } # NAME NUMBER
pad=$(head -c 900 /dev/zero | tr '\0' x)

kpull_world() {
    local at=$dir/kpull i
    mkdir -p "$at"/{site/roles/files/templates,site/host_vars,etc/kpull}
    printf 'name = "bench"\n[groups.all]\nroles = ["files"]\n' > "$at/site/site.toml"
    printf 'address = "192.0.2.1"\ngroups = ["all"]\n' > "$at/site/host_vars/h1.toml"
    { printf 'summary = "The same files as everybody"\n[vars]\nhname = "h1"\n'
      for i in $(seq "$n"); do printf '[[template]]\npath = "/out/f%s"\ntemplate = "f%s"\n' "$i" "$i"; done } > "$at/site/roles/files/role.toml"
    for i in $(seq "$n"); do text '{{ hname }}' "$i" > "$at/site/roles/files/templates/f$i"; done
    ssh-keygen -q -t ed25519 -N '' -f "$at/key"
    echo "bench namespaces=\"release@kpull\" $(<"$at/key.pub")" > "$at/etc/kpull/allowed_signers"
    printf 'host = "h1"\n[trust]\nsite = "bench"\nallowed_signers = "allowed_signers"\n[[source]]\ndir = "%s/site"\n' "$at" > "$at/etc/kpull/kpull.toml"
    "$kpull" sign --key "$at/key" --site "$at/site" >/dev/null
}
kpull_run() { "$kpull" apply --root "$dir/kpull" "$@"; }

cfengine3_world() {
    local at=$dir/cfengine3 i
    mkdir -p "$at/out"
    { printf 'body common control { bundlesequence => { "main" }; }\nbundle agent main { vars: "hname" string => "h1"; files:\n'
      for i in $(seq "$n"); do printf '"%s/out/f%s" create => "true", template_method => "inline_mustache", edit_template_string => "%s", perms => m("644");\n' "$at" "$i" "$(text '{{{vars.main.hname}}}' "$i")"; done
      printf '}\nbody perms m(mode) { mode => "$(mode)"; }\n'; } > "$at/bench.cf"
    chmod 600 "$at/bench.cf"
}
cfengine3_run() { cf-agent -K -f "$dir/cfengine3/bench.cf"; }

puppet_world() {
    local at=$dir/puppet i
    mkdir -p "$at"/{out,modules/bench/templates}
    for i in $(seq "$n"); do
        text '<%= $hname %>' "$i" > "$at/modules/bench/templates/f$i.epp"
        printf "file { '%s/out/f%s': content => epp('bench/f%s.epp', { 'hname' => 'h1' }), mode => '0644' }\n" "$at" "$i" "$i"
    done > "$at/bench.pp"
}
puppet_run() { puppet apply --confdir "$dir/puppet/conf" --vardir "$dir/puppet/var" --modulepath "$dir/puppet/modules" "$dir/puppet/bench.pp"; }

pyinfra_world() {
    local at=$dir/pyinfra i
    mkdir -p "$at"/{out,templates}
    for i in $(seq "$n"); do text '{{ hname }}' "$i" > "$at/templates/f$i"; done
    printf 'from pyinfra.operations import files\nfor i in range(1, %s):\n    files.template(src=f"%s/templates/f{i}", dest=f"%s/out/f{i}", mode="644", hname="h1")\n' \
        "$((n + 1))" "$at" "$at" > "$at/deploy.py"
}
pyinfra_run() { (cd "$dir/pyinfra" && "$peers/bin/pyinfra" -y @local deploy.py); }

ansible_world() {
    local at=$dir/ansible i
    mkdir -p "$at"/{out,templates}
    for i in $(seq "$n"); do text '{{ hname }}' "$i" > "$at/templates/f$i"; done
    printf -- '- hosts: localhost\n  connection: local\n  gather_facts: false\n  vars: { hname: h1 }\n  tasks:\n    - template: { src: "%s/templates/f{{ item }}", dest: "%s/out/f{{ item }}", mode: "0644" }\n      loop: "{{ range(1, %s) | list }}"\n' \
        "$at" "$at" "$((n + 1))" > "$at/bench.yml"
}
ansible_run() { ANSIBLE_HOME=$dir/ansible/home "$peers/bin/ansible-playbook" -i localhost, -e "ansible_python_interpreter=$peers/bin/python" "$dir/ansible/bench.yml"; }

# A C program that only runs stat on the same files, or reads and hashes them: the lower limit for any tool.
floor_world() {
    cat > "$dir/floor.c" <<'C'
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int reads = !strcmp(argv[1], "read"), n = atoi(argv[3]);
    static char path[4096], content[65536];
    unsigned char digest[32];
    long sum = 0;
    for (int i = 1; i <= n; i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/f%d", argv[2], i);
        if (reads) {
            int fd = open(path, O_RDONLY);
            ssize_t got = read(fd, content, sizeof content);
            if (fd < 0 || got < 0 || fstat(fd, &st)) return 1;
            SHA256((unsigned char *)content, got, digest);
            close(fd);
            sum += digest[0];
        } else if (lstat(path, &st)) return 1;
        sum += st.st_mode + st.st_uid + st.st_size + st.st_ctime;
    }
    return sum == 42;
}
C
    gcc -O2 -Wno-deprecated-declarations -o "$dir/floor" "$dir/floor.c" -lcrypto
}

same() { # TOOL: whether the tool has written the same files as kpull
    cmp -s "$dir/kpull/out/f1" "$dir/$1/out/f1" && cmp -s "$dir/kpull/out/f$n" "$dir/$1/out/f$n" && cmp -s "$dir/kpull/out/f7" "$dir/$1/out/f7"
}
