package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
)

// write writes the history of a run that has ended, as the temporal command
// exports it.
func (r *recorder) write(ctx context.Context, name, workflowID, runID string) error {
	history := &historypb.History{}
	events := r.Client.GetWorkflowHistory(ctx, workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return fmt.Errorf("reading the history of %s: %w", workflowID, err)
		}
		history.Events = append(history.Events, event)
	}
	data, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(history)
	if err != nil {
		return fmt.Errorf("writing the history of %s: %w", workflowID, err)
	}
	// Workers name themselves after the machine, which a history in a repository
	// should not.
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	data = bytes.ReplaceAll(data, []byte("@"+host), []byte("@host"))
	data = bytes.ReplaceAll(data, []byte(`"`+host+":"), []byte(`"host:`))
	if err := r.inspect(data); err != nil {
		return fmt.Errorf("the history of %s is not fit to be kept: %w", workflowID, err)
	}
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	if _, err := gz.Write(data); err != nil {
		return err
	}
	if err := gz.Close(); err != nil {
		return err
	}
	path := filepath.Join(r.out, name+".json.gz")
	fmt.Fprintf(os.Stderr, "%s: %d events, %d bytes\n", path, len(history.Events), packed.Len())
	return os.WriteFile(path, packed.Bytes(), 0o644)
}

// payload finds what workflows and activities say to each other in a history.
var payload = regexp.MustCompile(`"data": *"([A-Za-z0-9+/=]+)"`)

// inspect looks for what belongs to this machine or is secret.
func (r *recorder) inspect(history []byte) error {
	text := string(payload.ReplaceAll(history, nil))
	for _, found := range payload.FindAllSubmatch(history, -1) {
		said, err := base64.StdEncoding.DecodeString(string(found[1]))
		if err != nil {
			return err
		}
		text += "\n" + string(said)
	}
	password, err := os.ReadFile(r.Lab.ResticPasswordFile)
	if err != nil {
		return err
	}
	if strings.Contains(text, strings.TrimSpace(string(password))) {
		return fmt.Errorf("it holds the repository's password")
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	root, err := filepath.Abs(filepath.Join(r.out, "..", ".."))
	if err != nil {
		return err
	}
	for _, ours := range []string{r.Lab.Dir, r.Dir, root, host} {
		word := regexp.MustCompile(`.*(^|\W)` + regexp.QuoteMeta(ours) + `(\W|$).*`)
		if line := word.FindString(text); line != "" {
			return fmt.Errorf("it holds %q: %s", ours, line)
		}
	}
	return nil
}
