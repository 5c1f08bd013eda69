package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const objects = `
# A document of comments alone is no object.
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good, namespace: ns}
spec: {hosts: [a.mesh], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 127.0.0.2}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: unknown-field, namespace: ns}
spec: {hosts: [a.mesh], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}], bogus: 1}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: same-port-twice, namespace: ns}
spec: {hosts: [a.mesh], resolution: DNS, ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: selects-all, namespace: ns}
spec: {hosts: [a.mesh], resolution: STATIC, ports: [{number: 80, name: a, protocol: HTTP}], workloadSelector: {}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: Upper, namespace: ns}
spec: {address: 127.0.0.2, ports: {http: 70000}}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: ns}
`

// What is expected of each object: a part of its one error or warning.
var expected = []struct{ name, err, warning, crd string }{
	{"good", "", "", ""},
	{"unknown-field", `unknown field "bogus"`, "", "spec.bogus: field not declared in schema"},
	{"same-port-twice", "port 80 already defined", "", "port number cannot be duplicated"},
	{"selects-all", "", "applied to all services in namespace", ""},
	{"Upper", "port number 70000", "", "metadata.name"},
	{"pod", "no kind of Istio", "", ""},
}

func TestJudgesInOrder(t *testing.T) {
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	crds := filepath.Join(strings.TrimSpace(string(folder)), "kubernetes", "customresourcedefinitions.gen.yaml")

	var lines strings.Builder
	if err := read(strings.NewReader(objects), func(object []byte) { lines.Write(append(object, '\n')) }); err != nil {
		t.Fatal(err)
	}
	for _, crds := range []string{"", crds} {
		fromYAML, fromJSON := judgeAll(t, objects, crds), judgeAll(t, lines.String(), crds)
		if fromYAML != fromJSON {
			t.Errorf("YAML and JSON are judged differently:\n%s\n%s", fromYAML, fromJSON)
		}
		printed := strings.Split(strings.TrimSpace(fromYAML), "\n")
		if len(printed) != len(expected) {
			t.Fatalf("%d objects gave %d lines", len(expected), len(printed))
		}
		for i, want := range expected {
			var got judgment
			if err := json.Unmarshal([]byte(printed[i]), &got); err != nil {
				t.Fatal(err)
			}
			if got.Name != want.name || got.Namespace != "ns" {
				t.Errorf("line %d is about %s/%s, not %s", i, got.Namespace, got.Name, want.name)
			}
			checkOne(t, want.name, want.warning, got.Warnings)
			ours, theirs := split(got.Errors)
			checkOne(t, want.name, want.err, ours)
			if crds != "" && want.crd != "" && !strings.Contains(strings.Join(theirs, "\n"), want.crd) {
				t.Errorf("%s: no error %q among those of the CRD: %q", want.name, want.crd, theirs)
			}
			if (crds == "" || want.crd == "") && len(theirs) > 0 {
				t.Errorf("%s: unexpected errors of the CRD: %q", want.name, theirs)
			}
		}
	}
}

func TestUnreadableInputIsAnError(t *testing.T) {
	for _, input := range []string{`{"a":`, `{} x`, "a: [", "a: b: c"} {
		if err := run(strings.NewReader(input), &strings.Builder{}, ""); err == nil {
			t.Errorf("%q was read without an error", input)
		}
	}
}

func judgeAll(t *testing.T, input, crds string) string {
	t.Helper()
	var out strings.Builder
	if err := run(strings.NewReader(input), &out, crds); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// checkOne wants exactly one message, with this part in it; or none, if the part is empty.
func checkOne(t *testing.T, name, part string, got []string) {
	t.Helper()
	if part == "" && len(got) == 0 {
		return
	}
	if part == "" || len(got) != 1 || !strings.Contains(got[0], part) {
		t.Errorf("%s: wanted one message with %q, got %q", name, part, got)
	}
}

func split(errs []string) (istio, crd []string) {
	for _, err := range errs {
		if rest, ok := strings.CutPrefix(err, "crd: "); ok {
			crd = append(crd, rest)
		} else {
			istio = append(istio, err)
		}
	}
	return istio, crd
}
