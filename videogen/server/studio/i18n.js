// English and Chinese.

const TEXTS = {
  en: {
    skip: "Skip to the prompt", title: "What should happen?", placeholder: "a fox jumps in the snow at night…",
    rewrite: "Rewrite", surprise: "Surprise me", camera: "Camera", pictures: "Pictures", first: "First frame", last: "Last frame",
    subject: "Subject", length: "Length", size: "Size", seed: "Seed", random: "random", more: "More", negative: "Keep away from",
    quality: "Quality", auto: "Automatic", fast: "Fast", high: "High",
    steps: "Steps", guidance: "Guidance", versions: "Versions", watermark: "Draw the visible “AI” mark", generate: "Generate",
    queue: "In the making", gallery: "Clips", search: "Search prompts", compare: "Compare", older: "Older ones",
    empty: "Nothing here yet. Say what should happen, and press Generate.", keyboard: "Keyboard", close: "Close", key: "Key",
    keyTitle: "API key", keyText: "This server asks for a key. It stays in this tab.", save: "Save",
    actors: "Who", motions: "Does what", scenes: "Where", lights: "When",
    unknown: "The model does not know", nearest: "nearest:", rewritten: "Rewritten", use: "Use it", unchanged: "Nothing to rewrite.",
    then: "then", thenHint: "The next move comes after this one", clear: "Clear",
    waiting: "waiting", cancel: "Cancel", cancelled: "cancelled", failed: "failed", starting: "starting", decoding: "decoding",
    left: "left", step: "Step", of: "of", resumed: "went on from step",
    about: "About", seconds: "s", minutes: "min", wait: "wait", ahead: "ahead", memory: "of memory", notMeasured: "Not measured yet",
    trained: "as trained", again: "Another seed", continue: "Continue this clip", reuse: "Use these settings",
    clip: "Clip", gif: "GIF", sheet: "Sheet", receipt: "Receipt", delete: "Delete", deleted: "Deleted.",
    adjusted: "Adjusted", notes: "Notes", made: "Made in", frames: "frames", select: "Select to compare",
    carried: "Also taken over", carried_subjects: "second subject", carried_keyframes: "keyframes", carried_camera: "camera as vectors",
    carried_guidance_interval: "noise levels of the guidance", carried_guidance_method: "method of the guidance", carried_guidance_rescale: "rescaling of the guidance",
    carried_fps: "frame rate", carried_receipt_images: "no pictures in the receipt", uploaded: "an uploaded video",
    continuing: "Goes on from", ready: "ready", loading: "The model is being loaded…", offline: "No connection; trying again…",
    submitted: "On its way.", uploading: "Reading the picture…", remove: "Remove", identity: "Identity", prompt: "Prompt",
    untrained: "not trained", countSteps: "steps", noMatch: "No clip matches.", sure: "Really delete?", theSubject: "the subject",
    theme: "Light or dark", dice: "Random seed", pause: "Pause", play: "Play", keyCompare: "Compare the selected ones", keyPause: "Pause the comparison",
    keyGenerate: "Generate", keyPrompt: "To the prompt", keySearch: "To the search", keyMove: "From clip to clip",
    keyOpen: "Open a clip", keySelect: "Select a clip to compare", keyHelp: "This list", keyEsc: "Close",
  },
  zh: {
    skip: "跳到提示词", title: "想看到什么？", placeholder: "一只狐狸夜里在雪地里跳……",
    rewrite: "改写", surprise: "随机来一个", camera: "镜头", pictures: "图片", first: "首帧", last: "尾帧",
    subject: "主角", length: "时长", size: "尺寸", seed: "种子", random: "随机", more: "更多", negative: "避免出现",
    quality: "质量", auto: "自动", fast: "快速", high: "高质量",
    steps: "步数", guidance: "引导强度", versions: "版本数", watermark: "画上可见的“AI”标记", generate: "生成",
    queue: "生成中", gallery: "作品", search: "搜索提示词", compare: "对比", older: "更早的",
    empty: "还没有作品。写下想看到的画面，然后点“生成”。", keyboard: "键盘", close: "关闭", key: "密钥",
    keyTitle: "API 密钥", keyText: "此服务器需要密钥。密钥只保留在本标签页。", save: "保存",
    actors: "谁", motions: "做什么", scenes: "在哪里", lights: "什么时候",
    unknown: "模型不认识", nearest: "相近：", rewritten: "改写后", use: "采用", unchanged: "无需改写。",
    then: "然后", thenHint: "下一个镜头接在这个之后", clear: "清除",
    waiting: "排队中", cancel: "取消", cancelled: "已取消", failed: "失败", starting: "准备中", decoding: "解码中",
    left: "剩余", step: "第", of: "/", resumed: "续自第",
    about: "约", seconds: "秒", minutes: "分钟", wait: "等待", ahead: "个在前", memory: "内存", notMeasured: "尚未测得耗时",
    trained: "训练时长", again: "换个种子", continue: "续写这个片段", reuse: "沿用这些设置",
    clip: "视频", gif: "GIF", sheet: "帧图", receipt: "凭据", delete: "删除", deleted: "已删除。",
    adjusted: "已调整", notes: "提示", made: "用时", frames: "帧", select: "选中以对比",
    carried: "一并沿用", carried_subjects: "第二个主角", carried_keyframes: "关键帧", carried_camera: "镜头向量",
    carried_guidance_interval: "引导的噪声区间", carried_guidance_method: "引导方法", carried_guidance_rescale: "引导重缩放",
    carried_fps: "帧率", carried_receipt_images: "凭据不含图片", uploaded: "上传的视频",
    continuing: "接在此片段之后", ready: "就绪", loading: "正在载入模型……", offline: "连接已断，正在重试……",
    submitted: "已提交。", uploading: "正在读取图片……", remove: "移除", identity: "相似度", prompt: "提示词",
    untrained: "未训练", countSteps: "步", noMatch: "没有匹配的作品。", sure: "确定删除？", theSubject: "主角",
    theme: "浅色或深色", dice: "随机种子", pause: "暂停", play: "播放", keyCompare: "对比选中的作品", keyPause: "暂停对比",
    keyGenerate: "生成", keyPrompt: "到提示词", keySearch: "到搜索", keyMove: "在作品间移动",
    keyOpen: "打开作品", keySelect: "选中作品以对比", keyHelp: "本列表", keyEsc: "关闭",
  },
};

export let language = localStorage.getItem("videogen-language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function t(name) {
  return TEXTS[language][name] ?? name;
}

export function setLanguage(wanted) {
  language = wanted;
  localStorage.setItem("videogen-language", wanted);
  translatePage();
}

export function translatePage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of document.querySelectorAll("[data-i18n-placeholder]")) element.placeholder = t(element.dataset.i18nPlaceholder);
  for (const element of document.querySelectorAll("[data-i18n-label]")) {
    element.setAttribute("aria-label", t(element.dataset.i18nLabel));
    if (element.tagName === "BUTTON") element.title = t(element.dataset.i18nLabel);
  }
  document.getElementById("language").textContent = language === "zh" ? "English" : "中文";
}
