{{/* What every pod and container has in common. They pass the Pod Security profile "restricted". */}}
{{- define "linli.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "linli.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The image and the settings of all processes, for a container that runs `linli`. */}}
{{- define "linli.container" -}}
image: {{ include "linli.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "linli.containerSecurity" . | nindent 2 }}
{{- end -}}

{{- define "linli.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "linli.temporary" -}}
- name: temporary
  emptyDir: {sizeLimit: 128Mi}
{{- end -}}

{{/* A volume that is one folder of several Secrets' files: (list "secrets" (list "linli-parking" "linli-billing")). */}}
{{- define "linli.secretFiles" -}}
- name: {{ index . 0 }}
  projected:
    defaultMode: 0440
    sources:
      {{- range index . 1 | uniq }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- end -}}

{{/* Certificates, and PostgreSQL's authority: (list $ "linli-parking-tls"). */}}
{{- define "linli.certificateVolumes" -}}
{{- $values := (index . 0).Values -}}
{{- if $values.tls.enabled -}}
- name: tls
  secret: {secretName: {{ index . 1 }}, defaultMode: 0440}
{{- end }}
{{- with $values.postgres.caSecret }}
- name: postgres
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{- define "linli.certificateMounts" -}}
{{- if .Values.tls.enabled -}}
- {name: tls, mountPath: /run/secrets/tls, readOnly: true}
{{- end }}
{{- if .Values.postgres.caSecret }}
- {name: postgres, mountPath: /run/secrets/postgres, readOnly: true}
{{- end }}
{{- end -}}
