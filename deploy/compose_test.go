// Package deploy_test checks what people deploy Ammonite with.
package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// mustGive are the variables without which docker-compose.yml does not load:
// secrets and where they are.
var mustGive = []string{"POSTGRES_PASSWORD=canary", "RESTIC_PASSWORD_SOURCE=/dev/null", "KUBECONFIG=/dev/null"}

func load(t *testing.T, env ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../docker-compose.yml"}, cli.WithEnv(env))
	require.NoError(t, err)
	// Loading validates against the schema of the Compose specification.
	return options.LoadProject(t.Context())
}

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t, mustGive...)
	require.NoError(t, err)
	return p
}

func TestSecretsMustBeGiven(t *testing.T) {
	for i, variable := range mustGive {
		name, _, _ := strings.Cut(variable, "=")
		_, err := load(t, slices.Delete(slices.Clone(mustGive), i, i+1)...)
		require.ErrorContains(t, err, name)
	}
}

func TestServices(t *testing.T) {
	p := project(t)
	require.ElementsMatch(t, []string{"postgresql", "temporal-schema", "temporal", "temporal-namespace", "temporal-ui", "repository", "worker"},
		p.ServiceNames())
	for name, service := range p.Services {
		t.Run(name, func(t *testing.T) {
			require.Regexp(t, regexp.MustCompile(`^[a-z0-9./-]+:[a-z0-9.-]+$`), service.Image, "an image and its tag")
			require.NotContains(t, service.Image, ":latest")
			for _, port := range service.Ports {
				require.Equal(t, "127.0.0.1", port.HostIP, "what asks for no password listens on this machine alone")
			}
			if isOneShot(p, name) {
				require.True(t, strings.HasPrefix(service.Restart, "on-failure"))
				return
			}
			require.NotNil(t, service.HealthCheck)
			require.NotEmpty(t, service.HealthCheck.Test)
			require.Equal(t, "unless-stopped", service.Restart)
		})
	}
}

// What is composed is what the tests run.
func TestImagesAreOfTheVersionsThatAreTested(t *testing.T) {
	p := project(t)
	for service, tested := range map[string]struct{ tool, module string }{
		"temporal":   {"temporal-server", "go.temporal.io/server"},
		"repository": {"rest-server", "github.com/restic/rest-server"},
	} {
		required, err := os.ReadFile(filepath.Join("../tests/lab/tools", tested.tool, "go.mod"))
		require.NoError(t, err)
		_, tag, _ := strings.Cut(p.Services[service].Image, ":")
		require.Contains(t, string(required), tested.module+" v"+tag)
	}
}

// isOneShot reports whether another service waits for this one to end.
func isOneShot(p *types.Project, name string) bool {
	for _, service := range p.Services {
		if service.DependsOn[name].Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	return false
}

// Every service waits until what it depends on works, not only until it runs.
func TestServicesWaitUntilOthersWork(t *testing.T) {
	for name, service := range project(t).Services {
		for other, dependency := range service.DependsOn {
			require.NotEqual(t, types.ServiceConditionStarted, dependency.Condition, "%s waits for %s", name, other)
		}
	}
}

func TestMountedFilesExist(t *testing.T) {
	p := project(t)
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	for name, service := range p.Services {
		for _, v := range service.Volumes {
			if v.Type == types.VolumeTypeBind && strings.HasPrefix(v.Source, root+"/") {
				require.FileExists(t, v.Source, name)
			}
		}
	}
}

func TestWorkerIsBuiltFromThisRepository(t *testing.T) {
	build := project(t).Services["worker"].Build
	require.NotNil(t, build)
	dockerfile := filepath.Join(build.Context, build.Dockerfile)
	text, err := os.ReadFile(dockerfile)
	require.NoError(t, err)

	// What the Dockerfile copies from the context is there.
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "COPY" || strings.HasPrefix(fields[1], "--from") {
			continue
		}
		for _, source := range fields[1 : len(fields)-1] {
			_, err := os.Stat(filepath.Join(build.Context, source))
			require.NoError(t, err, line)
		}
	}
	for _, image := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(text), -1) {
		require.Regexp(t, `:.+`, image[1], "an image without a tag changes by itself")
		require.NotContains(t, image[1], ":latest")
	}
	// Compiled by a Go that the modules accept: only a patch release newer.
	mod, err := os.ReadFile(filepath.Join(build.Context, "go.mod"))
	require.NoError(t, err)
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))[1]
	require.Contains(t, string(text), "FROM golang:"+language+".")
}

// The worker understands every variable that it is given, and accepts them.
func TestWorkerEnvironment(t *testing.T) {
	usage, err := config.Usage()
	require.NoError(t, err)
	var known []string
	for line := range strings.Lines(usage) {
		known = append(known, strings.Fields(line)[0])
	}
	var env []string
	for name, value := range project(t).Services["worker"].Environment {
		require.NotNil(t, value, name)
		env = append(env, name+"="+*value)
		switch {
		case strings.HasPrefix(name, "RESTIC_"), strings.HasPrefix(name, "TEMPORAL_"):
		default:
			require.Contains(t, known, name, "not one of the worker's variables")
		}
		t.Setenv(name, *value)
	}

	// What is mounted into the container is not here.
	for _, mounted := range []string{"CEPH_CONF", "KUBECONFIG"} {
		t.Setenv(mounted, os.DevNull)
	}
	settings, err := config.FromEnvironment()
	require.NoError(t, err)
	require.True(t, settings.Control() && settings.Agent(), "there is one worker for both roles")

	temporal, err := envconfig.LoadDefaultClientOptions()
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:7233", temporal.HostPort)
	require.Equal(t, "default", temporal.Namespace)

	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("canary\n"), 0o600))
	_, err = restic.FromEnvironment(append(env, "RESTIC_PASSWORD_FILE="+password))
	require.NoError(t, err)
}

// Secrets that the worker is told the path of are mounted there.
func TestWorkerSecrets(t *testing.T) {
	worker := project(t).Services["worker"]
	for _, variable := range []string{"KUBECONFIG", "RESTIC_PASSWORD_FILE"} {
		path := *worker.Environment[variable]
		require.True(t, slices.ContainsFunc(worker.Secrets, func(s types.ServiceSecretConfig) bool {
			return path == "/run/secrets/"+s.Source
		}), "%s=%s", variable, path)
	}
	// Nothing secret is in the environment.
	for name, value := range worker.Environment {
		require.NotContains(t, *value, "canary", name)
	}
}
