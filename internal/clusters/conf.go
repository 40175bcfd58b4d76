package clusters

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// keyring is where the key of a client is.
type keyring struct{ user, path string }

var (
	clientSection = regexp.MustCompile(`^\[\s*client\.([A-Za-z0-9._-]+)\s*\]$`)
	keyLine       = regexp.MustCompile(`^key\s*=\s*\S`)
)

// clientOf returns the only client in a keyring, without "client.". Its errors
// quote nothing: what is not a section could be a key.
func clientOf(text string) (string, error) {
	user, inClient, hasKey := "", false, false
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "[client"):
			section := clientSection.FindStringSubmatch(line)
			if section == nil {
				return "", fmt.Errorf("line %d is not the section of a client, [client.NAME]", n+1)
			}
			if user != "" {
				return "", errors.New("it has more than one client; leave only the one that Ammonite is to be")
			}
			user, inClient = section[1], true
		case strings.HasPrefix(line, "["):
			inClient = false
		case inClient && keyLine.MatchString(line):
			hasKey = true
		}
	}
	switch {
	case user == "":
		return "", errors.New("it has no section [client.NAME]; give the whole keyring, as `ceph auth get client.NAME` prints it")
	case !hasKey:
		return "", fmt.Errorf("[client.%s] has no key", user)
	}
	return user, nil
}

// writeConf writes the cluster's ceph.conf into runDir. Each keyring is named in a
// section of the client's own, which counts before any other.
func (e *entry) writeConf(runDir string) error {
	text := e.conf
	if text == "" {
		hosts := make([]string, len(e.monitors))
		for i, m := range e.monitors {
			hosts[i] = strings.TrimSpace(m)
		}
		text = "[global]\nmon host = " + strings.Join(hosts, ",")
	}
	for _, k := range []keyring{e.keyring, e.restore} {
		if k.path != "" {
			text += fmt.Sprintf("\n\n[client.%s]\nkeyring = %s\n", k.user, k.path)
		}
	}
	e.RestoreUser = e.restore.user

	runDir, err := filepath.Abs(runDir)
	if err == nil {
		e.User, e.Conf = e.keyring.user, filepath.Join(runDir, e.ID+".conf")
		err = replaceFile(e.Conf, text)
	}
	if err != nil {
		return fmt.Errorf("writing the ceph.conf of the cluster %s: %w. Check that the worker can write there", e.ID, err)
	}
	return nil
}

// replaceFile writes the whole file or leaves it as it was: another process may
// be reading it.
func replaceFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
