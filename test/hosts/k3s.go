package hosts

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Where k3s keeps things.
const (
	K3sDir       = "/var/lib/rancher/k3s"
	K3sProgram   = "/usr/local/bin/k3s"
	K3sUnit      = "k3s.service"
	K3sAgentUnit = "k3s-agent.service"
)

// k3sUnitText is what k3s's installer writes, without the modules that it loads: %[1]s
// is the name, %[2]s the type, %[3]s the command.
const k3sUnitText = `[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=%[2]s
EnvironmentFile=-/etc/default/%%N
EnvironmentFile=-/etc/sysconfig/%%N
EnvironmentFile=-/etc/systemd/system/%[1]s.service.env
KillMode=process
Delegate=yes
User=root
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStart=` + K3sProgram + ` \
    %[3]s
`

// K3sConfig is what a k3s server needs to be taken over: agents are told the virtual IP.
const K3sConfig = `tls-san:
  - ` + VIP + `
advertise-address: ` + VIP + `
`

// BuildK3s builds the stand-in of k3s (test/k3s) with a version such as v1.37.2+k3s1.
func BuildK3s(ctx context.Context, out io.Writer, version string) (path string, err error) {
	root, err := repoRoot()
	if err != nil {
		return "", err
	}
	path = filepath.Join(root, ".cache", "k3s-"+version, "k3s")
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -X main.version="+version, "-o", path, "./test/k3s")
	c.Dir = root
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the stand-in of k3s: %w\n%s", err, lastLines(string(text), 20))
	}
	return path, nil
}

// InstallK3s makes the first host a k3s server and the others agents of it, all with the
// units of both, as their owner would have: the server alone has its files. It starts
// them.
func (l *Lab) InstallK3s(ctx context.Context, version string, hosts ...*Host) (*Kube, error) {
	bin, err := BuildKube(ctx, l.opts.Out)
	if err != nil {
		return nil, err
	}
	k3s, err := BuildK3s(ctx, l.opts.Out, version)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		g.Go(func() error {
			for dst, src := range map[string]string{K3sProgram: k3s, K3sDir + "/data/current/bin/kine": bin.Kine, K3sDir + "/data/current/bin/kube-apiserver": bin.APIServer} {
				if err := h.CopyIn(gctx, src, dst, 0o755); err != nil {
					return err
				}
			}
			for name, text := range map[string]string{
				"/etc/systemd/system/" + K3sUnit:      fmt.Sprintf(k3sUnitText, "k3s", "notify", "server"),
				"/etc/systemd/system/" + K3sAgentUnit: fmt.Sprintf(k3sUnitText, "k3s-agent", "exec", "agent"),
				"/etc/rancher/k3s/config.yaml":        K3sConfig + "node-ip: " + h.IP.String() + "\n",
			} {
				if err := h.WriteFile(gctx, name, []byte(text), 0o600); err != nil {
					return err
				}
			}
			_, err := h.Run(gctx, "systemctl", "daemon-reload")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("install k3s: %w", err)
	}
	first := hosts[0]
	if _, err := first.Run(ctx, "systemctl", "enable", "--now", "--quiet", K3sUnit); err != nil {
		return nil, fmt.Errorf("start k3s on %s: %w", first.Name, err)
	}
	token, err := first.Run(ctx, "cat", K3sDir+"/server/token")
	if err != nil {
		return nil, err
	}
	ca, err := first.Run(ctx, "cat", K3sDir+"/server/tls/server-ca.crt")
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		env := "K3S_TOKEN='" + strings.TrimSpace(token) + "'\nK3S_URL='https://" + VIP + ":6443'\n"
		if err := h.WriteFile(ctx, "/etc/systemd/system/"+K3sAgentUnit+".env", []byte(env), 0o600); err != nil {
			return nil, err
		}
		if h == first {
			continue
		}
		if _, err := h.Run(ctx, "systemctl", "enable", "--now", "--quiet", K3sAgentUnit); err != nil {
			return nil, fmt.Errorf("start the k3s agent on %s: %w", h.Name, err)
		}
	}
	_, secret, _ := strings.Cut(strings.TrimSpace(token), "::server:")
	return &Kube{CA: []byte(ca), Token: secret}, nil
}
