{{- define "shop.side" -}}
{{ .Values.side.repository }}:{{ .Values.side.tag }}
{{- end -}}
