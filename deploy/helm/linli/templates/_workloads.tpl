{{/*
What the other templates range over: every workload with its values, what its services need, and who calls whom. As YAML:
{name: {name, arguments, serves, grpc, http, databases, blobs, folder, oneNode, outside, consumers, callers, callees, ...values}}
*/}}
{{- define "linli.workloads" -}}
{{- $declared := (.Files.Get "files/declarations.yaml" | fromYaml).services -}}
{{- $values := .Values -}}
{{- $workloads := dict -}}
{{- $homes := dict -}}
{{- range $name, $own := .Values.services -}}
  {{- $workload := dict "name" $name -}}
  {{- range $key, $value := $values.defaults }}{{ $_ := set $workload $key $value }}{{ end -}}
  {{- range $key, $value := $own }}{{ $_ := set $workload $key $value }}{{ end -}}
  {{- if $workload.enabled -}}
    {{- $serves := default (list $name) $workload.serves -}}
    {{- $_ := set $workload "arguments" (concat (list "serve") $serves) -}}
    {{- if has "all" $serves }}{{ $serves = keys $declared | sortAlpha }}{{ end -}}
    {{- $grpc := list }}{{ $http := list }}{{ $databases := list }}{{ $calls := list }}{{ $consumers := list -}}
    {{- $blobs := false }}{{ $outside := false -}}
    {{- range $service := $serves -}}
      {{- $needs := get $declared $service -}}
      {{- if not $needs }}{{ fail (printf "services.%s serves %s, and there is no such service" $name $service) }}{{ end -}}
      {{- if hasKey $homes $service }}{{ fail (printf "services.%s serves %s, and so does another" $name $service) }}{{ end -}}
      {{- $_ := set $homes $service $name -}}
      {{- if $needs.grpc }}{{ $grpc = append $grpc $service }}{{ end -}}
      {{- if $needs.http }}{{ $http = append $http (dict "service" $service "port" $needs.http) }}{{ end -}}
      {{- if $needs.database }}{{ $databases = append $databases $service }}{{ end -}}
      {{- $calls = concat $calls $needs.calls | uniq -}}
      {{- $consumers = concat $consumers $needs.consumers -}}
      {{- $blobs = or $blobs $needs.blobs -}}
      {{- $outside = or $outside $needs.outside -}}
    {{- end -}}
    {{- $needed := dict "serves" $serves "grpc" $grpc "http" $http "databases" $databases "calls" $calls "consumers" $consumers -}}
    {{- if and (hasKey $declared $name) (not (has $name $serves)) -}}
      {{- fail (printf "services.%s is the name of a service that it does not serve" $name) -}}
    {{- end -}}
    {{- $folder := and $blobs (not $values.blobs.url) -}}
    {{- $oneNode := and $folder (eq $values.blobs.volume.accessMode "ReadWriteOnce") -}}
    {{- $_ := set $workloads $name (merge $needed (dict "blobs" $blobs "folder" $folder "oneNode" $oneNode "outside" $outside) $workload) -}}
  {{- end -}}
{{- end -}}
{{- range $service, $needs := $declared -}}
  {{- if and $needs.alwaysOn (not (hasKey $homes $service)) }}{{ fail (printf "no workload serves %s, which nothing goes without" $service) }}{{ end -}}
{{- end -}}
{{- range $name, $workload := $workloads -}}
  {{- $callees := list -}}
  {{- range $workload.calls }}{{ if hasKey $homes . }}{{ $callees = append $callees (get $homes .) }}{{ end }}{{ end -}}
  {{- $_ := set $workload "callees" (without ($callees | uniq | sortAlpha) $name) -}}
{{- end -}}
{{- range $name, $workload := $workloads -}}
  {{- $callers := list -}}
  {{- range $other, $caller := $workloads }}{{ if has $name $caller.callees }}{{ $callers = append $callers $other }}{{ end }}{{ end -}}
  {{- $_ := set $workload "callers" ($callers | sortAlpha) -}}
{{- end -}}
{{- toYaml $workloads -}}
{{- end -}}

{{/* The name of the workload that serves a service: (list $ "identity"). */}}
{{- define "linli.home" -}}
{{- $service := index . 1 -}}
{{- range $name, $workload := include "linli.workloads" (index . 0) | fromYaml }}{{ if has $service $workload.serves }}{{ $name }}{{ end }}{{ end -}}
{{- end -}}

{{/* Labels that select the pods of a component: (list $ "parking"). */}}
{{- define "linli.selector" -}}
app.kubernetes.io/name: linli
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object of a component. */}}
{{- define "linli.labels" -}}
{{ include "linli.selector" . }}
app.kubernetes.io/part-of: linli
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "linli.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Settings of all processes. */}}
{{- define "linli.settings" -}}
{{- $stop := .Values.stop -}}
{{- $known := dict
  "LINLI_GRPC_ADDRESS" "0.0.0.0:7000"
  "LINLI_OPS_ADDRESS" "0.0.0.0:7001"
  "LINLI_SERVICE_ADDRESS" "dns:///linli-{service}:7000"
  "LINLI_NATS_URL" (include "linli.natsUrl" .)
  "LINLI_LINGER_S" ($stop.linger | toString)
  "LINLI_DRAIN_S" ($stop.drain | toString)
  "LINLI_OTLP_ENDPOINT" .Values.telemetry.otlpEndpoint
  "LINLI_TRACE_RATIO" .Values.telemetry.traceRatio
  "LINLI_BLOBS_URL" (default "/var/lib/linli/blobs" .Values.blobs.url)
-}}
{{- if .Values.tls.enabled }}{{ $_ := set $known "LINLI_TLS_FOLDER" "/run/secrets/tls" }}{{ end -}}
{{- range $key, $value := .Values.settings }}{{ $_ := set $known $key ($value | toString) }}{{ end -}}
{{- toYaml $known -}}
{{- end -}}

{{/* Settings of one workload: (list $ $workload). Services in the same process are found without the network's help. */}}
{{- define "linli.ownSettings" -}}
{{- $workload := index . 1 -}}
{{- $known := dict -}}
{{- range $workload.grpc }}{{ $_ := set $known (printf "LINLI_%s_ADDRESS" (upper .)) "127.0.0.1:7000" }}{{ end -}}
{{- range $workload.http }}{{ $_ := set $known (printf "LINLI_%s_HTTP_ADDRESS" (upper .service)) (printf "0.0.0.0:%v" .port) }}{{ end -}}
{{- range $key, $value := $workload.settings }}{{ $_ := set $known $key ($value | toString) }}{{ end -}}
{{- toYaml $known -}}
{{- end -}}

{{- define "linli.natsUrl" -}}
{{- if .Values.nats.url }}{{ .Values.nats.url }}
{{- else if .Values.eval.enabled }}nats://linli-nats:4222
{{- else }}{{ fail "nats.url is needed without eval.enabled" }}{{ end -}}
{{- end -}}

{{/* The Secret of a service: (list $ $workload "parking"). */}}
{{- define "linli.secret" -}}
{{- (index . 1).existingSecret | default (printf "linli-%s" (index . 2)) -}}
{{- end -}}
{{- define "linli.ownerSecret" -}}
{{- (index . 1).existingOwnerSecret | default (printf "linli-%s-owner" (index . 2)) -}}
{{- end -}}
