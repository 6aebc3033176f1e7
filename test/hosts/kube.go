package hosts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path"
	"time"

	"golang.org/x/sync/errgroup"
)

// The control plane of the tests, as its owner would have set it up.
const (
	VIP       = "10.77.0.100" // the address of the API, wherever it runs
	APIPort   = 6443
	Datastore = "/var/lib/kine/state.db"

	pkiDir    = "/etc/kubernetes/pki"
	tokensCSV = "/etc/kubernetes/tokens.csv"
	tokenFile = "/etc/kubernetes/relevo.token"
)

// Units are the services of the control plane in the order in which they start.
var Units = []string{"kine.service", "kube-apiserver.service"}

// Identity is what makes a host that very master: the files that relevo mirrors.
var Identity = []string{pkiDir, tokensCSV, tokenFile}

const (
	kineProgram  = "/usr/local/bin/kine"
	kineEndpoint = "sqlite://" + Datastore + "?_journal=WAL&cache=shared&_busy_timeout=30000"
	kineCommand  = kineProgram + ` --endpoint "` + kineEndpoint + `" --metrics-bind-address 0 --listen-address `
)

// KinePort is where kine answers the API server, on loopback. KineOnLAN is a drop-in of
// its unit with which it answers everybody: for clients that write more in a second than
// an API server takes on this machine.
const (
	KinePort  = 2379
	KineOnLAN = "[Service]\nExecStart=\nExecStart=" + kineCommand + "0.0.0.0:2379\n"
)

// KineWithChild is a drop-in with which kine leaves a child that ignores SIGTERM when it is
// stopped: /usr/local/lib/child/kine, a program that sleeps.
const KineWithChild = "[Service]\nKillMode=process\nExecStart=\nExecStart=/bin/sh -c '(trap \"\" TERM; exec /usr/local/lib/child/kine 1000000) & exec " + kineProgram + ` --endpoint "$0" --metrics-bind-address 0 --listen-address 127.0.0.1:2379' "` + kineEndpoint + "\"\n"

const kineUnit = `[Unit]
Description=kine on SQLite
After=network.target

[Service]
Type=exec
ExecStart=` + kineCommand + `127.0.0.1:2379
Restart=always
RestartSec=1s

[Install]
WantedBy=multi-user.target
`

const apiServerUnit = `[Unit]
Description=Kubernetes API server
After=network.target kine.service
Wants=kine.service

[Service]
Type=notify
ExecStart=/usr/local/bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --advertise-address=` + VIP + ` \
  --tls-cert-file=` + pkiDir + `/apiserver.crt --tls-private-key-file=` + pkiDir + `/apiserver.key --client-ca-file=` + pkiDir + `/ca.crt \
  --service-account-key-file=` + pkiDir + `/sa.pub --service-account-signing-key-file=` + pkiDir + `/sa.key --service-account-issuer=https://kubernetes.default.svc \
  --token-auth-file=` + tokensCSV + ` --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16
Restart=always
RestartSec=1s

[Install]
WantedBy=multi-user.target
`

// Kube is the control plane that a lab's hosts share.
type Kube struct {
	CA    []byte // PEM
	Token string // of a cluster administrator
}

// InstallKube puts kine and kube-apiserver as units on hosts, on or off, and the
// cluster's identity on the first of them alone, where the units are enabled and,
// if the host is on, started. The others have programs and units and nothing else.
func (l *Lab) InstallKube(ctx context.Context, hosts ...*Host) (*Kube, error) {
	bin, err := BuildKube(ctx, l.opts.Out)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		g.Go(func() error {
			for dst, src := range map[string]string{"/usr/local/bin/kine": bin.Kine, "/usr/local/bin/kube-apiserver": bin.APIServer} {
				if l.opts.Kube {
					break
				}
				if err := h.CopyIn(gctx, src, dst, 0o755); err != nil {
					return err
				}
			}
			for unit, text := range map[string]string{Units[0]: kineUnit, Units[1]: apiServerUnit} {
				if err := h.WriteFile(gctx, "/etc/systemd/system/"+unit, []byte(text), 0o644); err != nil {
					return err
				}
			}
			_, err := h.disk(gctx, nil, `mkdir -p "$1"; if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi`, path.Dir(Datastore))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("install the control plane: %w", err)
	}
	k, files, err := newKube()
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificates: %w", err)
	}
	first := hosts[0]
	for name, text := range files {
		mode := os.FileMode(0o600)
		if path.Ext(name) == ".crt" || path.Ext(name) == ".pub" {
			mode = 0o644
		}
		if err := first.WriteFile(ctx, name, text, mode); err != nil {
			return nil, err
		}
	}
	_, err = first.disk(ctx, nil, `systemctl enable --quiet "$@"; if [ -d /run/systemd/system ]; then systemctl start "$@"; fi`, Units...)
	if err != nil {
		return nil, fmt.Errorf("start the control plane on %s: %w", first.Name, err)
	}
	return k, nil
}

// newKube makes a cluster's certificates, keys and tokens: path to content.
func newKube() (*Kube, map[string][]byte, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// The names must fit wherever the API runs.
	serving := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(VIP), net.ParseIP("10.96.0.1")},
	}
	for n := range maxHosts {
		serving.IPAddresses = append(serving.IPAddresses, net.IPv4(10, 77, 0, byte(n+1)))
	}
	der, err := x509.CreateCertificate(rand.Reader, serving, ca, key.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	sa, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	files := map[string][]byte{
		pkiDir + "/ca.crt":        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		pkiDir + "/apiserver.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
	for name, k := range map[string]*ecdsa.PrivateKey{"ca.key": caKey, "apiserver.key": key, "sa.key": sa} {
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, nil, err
		}
		files[pkiDir+"/"+name] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	}
	pub, err := x509.MarshalPKIXPublicKey(sa.Public())
	if err != nil {
		return nil, nil, err
	}
	files[pkiDir+"/sa.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	var secret [16]byte
	rand.Read(secret[:])
	token := hex.EncodeToString(secret[:])
	files[tokensCSV] = []byte(token + ",relevo,relevo,system:masters\n")
	files[tokenFile] = []byte(token + "\n")
	return &Kube{CA: files[pkiDir+"/ca.crt"], Token: token}, files, nil
}
