package hosts

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// LoopbackToken is an administrator's, for an API server with LoopbackAPI's arguments.
const LoopbackToken = "secret"

// LoopbackAPI writes what a kube-apiserver on loopback needs into dir, and returns its URL and
// its arguments. etcd is where kine listens, host:port. The server makes its own certificate,
// apiserver.crt in dir.
func LoopbackAPI(dir, etcd string) (url string, args []string, err error) {
	port, err := FreePort()
	if err != nil {
		return "", nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", nil, err
	}
	sa, tokens := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens.csv")
	for path, text := range map[string]string{
		sa:     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		tokens: LoopbackToken + ",relevo,1,system:masters\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", nil, err
		}
	}
	return fmt.Sprintf("https://127.0.0.1:%d", port), []string{
		"--etcd-servers=http://" + etcd, fmt.Sprintf("--secure-port=%d", port), "--bind-address=127.0.0.1", "--cert-dir=" + dir,
		"--service-account-key-file=" + sa, "--service-account-signing-key-file=" + sa, "--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file=" + tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
	}, nil
}

// FreePort is one of loopback that nobody listened on a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
