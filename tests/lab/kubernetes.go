package lab

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"strconv"
)

func (l *Lab) kubernetesArguments(part string) []string {
	etcd := "http://" + l.address(portEtcd)
	peer := "http://" + l.address(portEtcdPeer)
	signingKey := l.path("kubernetes", "service-account.key")
	switch part {
	case Etcd:
		return []string{
			"etcd",
			"--name=default",
			"--data-dir=" + l.path("kubernetes", "etcd"),
			"--listen-client-urls=" + etcd,
			"--advertise-client-urls=" + etcd,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=default=" + peer,
		}
	case APIServer:
		return []string{
			l.tool("kube-apiserver"),
			"--etcd-servers=" + etcd,
			"--bind-address=127.0.0.1",
			"--advertise-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(l.port(portAPIServer)),
			"--cert-dir=" + l.path("kubernetes", "certificates"),
			"--token-auth-file=" + l.path("kubernetes", "tokens.csv"),
			"--authorization-mode=RBAC,Node",
			"--service-cluster-ip-range=10.96.0.0/24",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + signingKey,
			"--service-account-signing-key-file=" + signingKey,
			// The endpoints of the API itself may not be on loopback.
			"--endpoint-reconciler-type=none",
			"--enable-priority-and-fairness=false",
		}
	default:
		return []string{
			l.tool("kube-controller-manager"),
			"--kubeconfig=" + l.KubeConfig,
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(l.port(portControllers)),
			"--cert-dir=" + l.path("kubernetes", "certificates"),
			"--service-account-private-key-file=" + signingKey,
			"--leader-elect=false",
			"--pvclaimbinder-sync-period=1s",
			// Tests make claims by the dozen and wait for all of them.
			"--kube-api-qps=200",
			"--kube-api-burst=400",
		}
	}
}

func (l *Lab) upKubernetes(ctx context.Context) error {
	if err := os.MkdirAll(l.path("kubernetes", "etcd"), 0o700); err != nil {
		return err
	}
	if err := l.writeServiceAccountKey(); err != nil {
		return err
	}
	tokens := fmt.Sprintf("%s,admin,admin,system:masters\n", l.state.Token)
	if err := writeFile(l.path("kubernetes", "tokens.csv"), tokens, 0o600); err != nil {
		return err
	}
	if err := l.progress.step("etcd", func() error { return l.StartPart(ctx, Etcd) }); err != nil {
		return err
	}
	err := l.progress.step("Kubernetes API server", func() error { return l.StartPart(ctx, APIServer) })
	if err != nil {
		return err
	}
	if err := l.writeKubeConfig(); err != nil {
		return err
	}
	return l.progress.step("Kubernetes controllers", func() error { return l.StartPart(ctx, Controllers) })
}

func (l *Lab) writeServiceAccountKey() error {
	path := l.path("kubernetes", "service-account.key")
	if exists(path) {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return writeFile(path, string(pem.EncodeToMemory(block)), 0o600)
}

// writeKubeConfig makes a kubeconfig that needs no other file. The API server
// has made itself a certificate by then.
func (l *Lab) writeKubeConfig() error {
	certificate, err := os.ReadFile(l.path("kubernetes", "certificates", "apiserver.crt"))
	if err != nil {
		return err
	}
	return writeFile(l.KubeConfig, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: lab
clusters:
- name: lab
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: admin
  user:
    token: %s
contexts:
- name: lab
  context:
    cluster: lab
    user: admin
`, l.address(portAPIServer), base64.StdEncoding.EncodeToString(certificate), l.state.Token), 0o600)
}

func (l *Lab) kubernetesAnswers(ctx context.Context, part string) error {
	switch part {
	case Etcd:
		return get(ctx, "http://"+l.address(portEtcd)+"/health")
	case APIServer:
		return l.getHealth(ctx, portAPIServer, "/readyz")
	default:
		return l.getHealth(ctx, portControllers, "/healthz")
	}
}

// getHealth asks for an address that is open to anybody and proves nothing but
// that the server answers, hence without a look at its certificate.
func (l *Lab) getHealth(ctx context.Context, offset int, path string) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+l.address(offset)+path, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s on %s: %s", path, l.address(offset), response.Status)
	}
	return nil
}
