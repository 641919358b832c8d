package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// manifest is what a site applies to install the controller, taken apart: without a container runtime the workload's
// container becomes a process with the same arguments.
type manifest struct {
	// objects are all documents but the workload: ServiceAccount, roles and bindings.
	objects string
	// args are the container's arguments.
	args                      []string
	namespace, serviceAccount string
}

// readManifest reads every YAML file of dir in the order of names, as kubectl apply -f DIR does.
func readManifest(dir string) (manifest, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return manifest{}, err
	}
	var m manifest
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return m, fmt.Errorf("read the controller's manifest: %w", err)
		}
		if err := m.add(text); err != nil {
			return m, fmt.Errorf("read the controller's manifest %s: %w", file, err)
		}
	}
	if m.serviceAccount == "" {
		return m, fmt.Errorf("read the controller's manifest: no Deployment or DaemonSet with a ServiceAccount in %s", dir)
	}
	return m, nil
}

func (m *manifest) add(text []byte) error {
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var kind metav1.TypeMeta
		if err := sigsyaml.Unmarshal(document, &kind); err != nil {
			return err
		}
		switch kind.Kind {
		case "", "Kustomization":
		case "Deployment", "DaemonSet":
			if err := m.takeWorkload(document); err != nil {
				return err
			}
		default:
			m.objects += "---\n" + strings.TrimSuffix(string(document), "\n") + "\n"
		}
	}
}

// takeWorkload reads a Deployment; a DaemonSet has the same template in the same place.
func (m *manifest) takeWorkload(document []byte) error {
	var workload appsv1.Deployment
	if err := sigsyaml.Unmarshal(document, &workload); err != nil {
		return err
	}
	pod := workload.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		return fmt.Errorf("%s has %d containers, want 1", workload.Name, len(pod.Containers))
	}
	container := pod.Containers[0]
	m.args = container.Args
	if len(container.Command) > 1 {
		m.args = append(container.Command[1:], container.Args...)
	}
	m.namespace, m.serviceAccount = workload.Namespace, pod.ServiceAccountName
	return nil
}
