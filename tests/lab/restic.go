package lab

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"strings"
)

func (l *Lab) repositoryURL(name string) string {
	return fmt.Sprintf("rest:http://%s/%s/", l.address(portRestServer), name)
}

// RepositoryDir is where the REST server keeps a repository.
func (l *Lab) RepositoryDir(name string) string { return l.path("restic", "data", name) }

func (l *Lab) restServerArguments() []string {
	return []string{
		l.tool("rest-server"),
		"--path", l.path("restic", "data"),
		"--listen", l.address(portRestServer),
		"--no-auth",
	}
}

func (l *Lab) upRestic(ctx context.Context) error {
	if err := os.MkdirAll(l.path("restic", "data"), 0o755); err != nil {
		return err
	}
	if !exists(l.ResticPasswordFile) {
		if err := writeFile(l.ResticPasswordFile, rand.Text()+"\n", 0o600); err != nil {
			return err
		}
	}
	return l.progress.step("restic REST server", func() error {
		if err := l.StartPart(ctx, RestServer); err != nil {
			return err
		}
		_, err := l.NewRepository(ctx, "default")
		return err
	})
}

func (l *Lab) restServerAnswers(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", l.address(portRestServer))
	if err != nil {
		return err
	}
	return conn.Close()
}

// NewRepository makes a repository on the REST server, which the lab's password
// file opens, and returns its URL. One that exists is left as it is.
func (l *Lab) NewRepository(ctx context.Context, name string) (url string, err error) {
	url = l.repositoryURL(name)
	if exists(l.RepositoryDir(name) + "/config") {
		return url, nil
	}
	if _, err = l.Run(ctx, "restic", "-r", url, "--password-file", l.ResticPasswordFile, "init"); err != nil {
		return url, err
	}
	password, err := os.ReadFile(l.ResticPasswordFile)
	if err != nil {
		return url, err
	}
	if err := cheapenKey(l.RepositoryDir(name), strings.TrimSpace(string(password))); err != nil {
		return url, fmt.Errorf("making the key of repository %s cheap: %w", name, err)
	}
	return url, nil
}

// RemoveRepository removes a repository with all that is in it.
func (l *Lab) RemoveRepository(name string) error { return os.RemoveAll(l.RepositoryDir(name)) }
