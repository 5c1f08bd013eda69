// Command judge says what Istio itself thinks of Istio objects.
//
// It reads objects from standard input, as JSON (one after another, one a line is usual) or as a YAML stream; the first
// byte that is not a space decides. For every object, in order, it prints one line:
//
//	{"kind":"ServiceEntry","namespace":"a","name":"b","errors":[],"warnings":[]}
//
// Errors are what istiod's admission webhook would refuse, and fields that Istio does not know (the webhook would ignore
// those silently, and an object that says something nobody reads is a bug of ours). With -crds, the errors of what the
// Kubernetes API server checks are there too: object metadata, the CRD's schema and its CEL rules; they begin with "crd: ".
//
// Exit codes: 0 every object was judged (whatever the verdict), 2 the arguments, the input or the CRDs could not be read.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"unicode"

	"github.com/hashicorp/go-multierror"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	kindcrd "istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
)

const exitUnreadable = 2

type judgment struct {
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Errors    []string `json:"errors"`
	Warnings  []string `json:"warnings"`
}

func main() {
	crds := flag.String("crds", "", "`file` of CustomResourceDefinitions to judge by as well")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(exitUnreadable)
	}
	if err := run(os.Stdin, os.Stdout, *crds); err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(exitUnreadable)
	}
}

func run(in io.Reader, out io.Writer, crds string) error {
	var rules crdRules
	if crds != "" {
		var err error
		if rules, err = loadCRDs(crds); err != nil {
			return fmt.Errorf("failed to load CRDs: %w", err)
		}
	}

	// Objects are judged side by side and printed in order: every object's place in the queue is the channel that its
	// judgment arrives on. Both queues are bounded, so a long input is never held in memory as a whole.
	workers := runtime.GOMAXPROCS(0)
	type job struct {
		object []byte
		done   chan judgment
	}
	jobs := make(chan job, workers)
	places := make(chan chan judgment, 64*workers)
	for range workers {
		go func() {
			for j := range jobs {
				j.done <- judge(j.object, rules)
			}
		}()
	}
	written := make(chan error)
	go func() {
		buffered := bufio.NewWriter(out)
		lines := json.NewEncoder(buffered)
		lines.SetEscapeHTML(false)
		var failed error
		for place := range places {
			if err := lines.Encode(<-place); err != nil && failed == nil {
				failed = err
			}
		}
		written <- errors.Join(failed, buffered.Flush())
	}()

	unreadable := read(in, func(object []byte) {
		done := make(chan judgment, 1)
		places <- done
		jobs <- job{object, done}
	})
	close(jobs)
	close(places)
	return errors.Join(unreadable, <-written)
}

// read hands every object of the input over, as JSON.
func read(in io.Reader, each func([]byte)) error {
	buffered := bufio.NewReaderSize(in, 1<<20)
	isJSON, err := startsWithBrace(buffered)
	if err != nil {
		return fmt.Errorf("failed to read standard input: %w", err)
	}
	if isJSON {
		decoder := json.NewDecoder(buffered)
		for {
			var object json.RawMessage
			if err := decoder.Decode(&object); err == io.EOF {
				return nil
			} else if err != nil {
				return fmt.Errorf("failed to read JSON at byte %d: %w", decoder.InputOffset(), err)
			}
			each(object)
		}
	}
	documents := kubeyaml.NewYAMLReader(buffered)
	for number := 1; ; number++ {
		document, err := documents.Read()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("failed to read YAML document %d: %w", number, err)
		}
		object, err := yaml.YAMLToJSON(document)
		if err != nil {
			return fmt.Errorf("failed to read YAML document %d: %w", number, err)
		}
		// A document of nothing but comments is no object.
		if !bytes.Equal(object, []byte("null")) {
			each(object)
		}
	}
}

func startsWithBrace(in *bufio.Reader) (bool, error) {
	for {
		r, _, err := in.ReadRune()
		if err == io.EOF {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if !unicode.IsSpace(r) {
			return r == '{', in.UnreadRune()
		}
	}
}

func judge(raw []byte, rules crdRules) judgment {
	verdict := judgment{Errors: []string{}, Warnings: []string{}}
	var object kindcrd.IstioKind
	if err := json.Unmarshal(raw, &object); err != nil {
		verdict.Errors = append(verdict.Errors, fmt.Sprintf("not a Kubernetes object: %v", err))
		return verdict
	}
	verdict.Kind, verdict.Namespace, verdict.Name = object.Kind, object.Namespace, object.Name

	gvk := object.GroupVersionKind()
	schema, known := collections.Pilot.FindByGroupVersionAliasesKind(resource.FromKubernetesGVK(&gvk))
	if !known {
		verdict.Errors = append(verdict.Errors, fmt.Sprintf("%s is no kind of Istio", gvk))
		return verdict
	}
	// The status is Istio's to write; it is not judged.
	object.Status = nil
	converted, err := kindcrd.ConvertObjectInternal(schema, &object, "cluster.local", strictSpec)
	if err != nil {
		verdict.Errors = append(verdict.Errors, fmt.Sprintf("spec cannot be decoded: %v", err))
	} else {
		warning, err := schema.ValidateConfig(*converted)
		verdict.Errors = append(verdict.Errors, flatten(err)...)
		verdict.Warnings = append(verdict.Warnings, flatten(warning)...)
	}

	if rules != nil {
		generic := &unstructured.Unstructured{}
		if err := generic.UnmarshalJSON(raw); err != nil {
			verdict.Errors = append(verdict.Errors, "crd: "+err.Error())
			return verdict
		}
		for _, message := range rules.check(generic) {
			verdict.Errors = append(verdict.Errors, "crd: "+message)
		}
	}
	return verdict
}

func strictSpec(schema resource.Schema, js string) (config.Spec, error) {
	spec, err := schema.NewInstance()
	if err != nil {
		return nil, err
	}
	return spec, config.ApplyJSONStrict(spec, js)
}

// flatten gives the single messages of what Istio gathered.
func flatten(err error) []string {
	if err == nil {
		return nil
	}
	many, ok := err.(*multierror.Error)
	if !ok {
		return []string{err.Error()}
	}
	var messages []string
	for _, one := range many.Errors {
		messages = append(messages, flatten(one)...)
	}
	return messages
}
