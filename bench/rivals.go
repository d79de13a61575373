package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// rivals makes sure that the Debian packages of the rivals are installed.
func rivals(ctx context.Context) error {
	var missing []string
	for program, pack := range map[string]string{"/usr/sbin/haproxy": "haproxy", "/usr/sbin/nginx": "nginx-light", "/usr/bin/perf": "linux-perf", "/usr/bin/taskset": "util-linux"} {
		if _, err := os.Stat(program); err != nil {
			missing = append(missing, pack)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Println("installing", strings.Join(missing, ", "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("the rivals are Debian packages, and apt-get %s said: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// haproxyConf is HAProxy at its best for this: one thread, connections behind
// it shared and kept, nothing logged.
func haproxyConf(port, behind int) string {
	return fmt.Sprintf(`global
    nbthread 1
    maxconn 4000
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
frontend f
    bind 127.0.0.1:%d
    default_backend b
backend b
    server s 127.0.0.1:%d pool-max-conn 1024
`, port, behind)
}

// nginxConf is nginx with one worker, as a proxy where behind is given and
// else as the cheapest server that answers.
func nginxConf(port, behind int, dir string) string {
	where, upstream := fmt.Sprintf("default_type application/json; return 200 '%s';", answer), ""
	if behind != 0 {
		upstream = fmt.Sprintf("upstream b { server 127.0.0.1:%d; keepalive 128; keepalive_requests 1000000000; }", behind)
		where = `proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection "";`
	}
	return fmt.Sprintf(`daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 4000; multi_accept on; }
http {
    access_log off;
    keepalive_timeout 60s;
    keepalive_requests 1000000000;
    client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
    %[2]s
    server { listen 127.0.0.1:%[3]d backlog=4096; location / { %[4]s } }
}
`, dir, upstream, port, where)
}

// conf writes a configuration file into a folder of its own.
func (b *bench) conf(name, text string) (dir, file string, err error) {
	dir = filepath.Join(b.dir, name)
	file = filepath.Join(dir, "conf")
	if err = os.MkdirAll(dir, 0o755); err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	return dir, file, err
}
